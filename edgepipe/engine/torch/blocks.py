"""Rows of a linear module's weight [rows, columns], held in some format, and products with them.

float32, bfloat16   reordered once for oneDNN on x86 processors, which doubles their speed
float16             on processors widened to float32 in every product: they multiply no halves fast
int8                a bfloat16 scale for each row
int4                a bfloat16 scale and minimum for each 32 values of a row (as Q4_1 of GGUF)

Integer formats multiply in bfloat16. Their columns are padded with zeros to whole groups of 32.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.functional import linear, pad

from edgepipe.core.weight_format import WeightFormat
from edgepipe.errors import ModelError

GROUP = 32
_ROW_UNIT = 16
"""The int4 kernels want whole units of rows."""
_FEW_ROWS = 6
"""Up to here the int8 kernel, which reads each weight once per row, beats widening them first."""
_INT4_CAPABILITY = (8, 0)

_FLOATS = {
    WeightFormat.FLOAT32: torch.float32,
    WeightFormat.BFLOAT16: torch.bfloat16,
    WeightFormat.FLOAT16: torch.float16,
}


class Block(Protocol):
    """Some rows of a weight."""

    @property
    def num_bytes(self) -> int:
        """What it takes on its device."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The type that it multiplies in."""
        ...

    def multiply(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply [n, columns] of `dtype` by the transposed rows: [n, rows] of `dtype`."""
        ...


def check_device(held: WeightFormat, device: torch.device) -> None:
    """Raises ModelError where the device cannot multiply by weights that are held so."""
    if held in _FLOATS or device.type == "cpu":
        return
    if device.type != "cuda":
        raise ModelError(
            f"The torch engine holds no {held} weights on {device.type} devices: ask for "
            "float16 weights."
        )
    capability = torch.cuda.get_device_capability(device)
    if held is WeightFormat.INT4 and capability < _INT4_CAPABILITY:
        raise ModelError(
            f"The device {device} is too old for int4 weights: ask for int8 or float16 weights."
        )


def reorders(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN multiplies faster by weights of this type in an order of its own."""
    if (
        device.type != "cpu"
        or platform.machine() not in {"x86_64", "AMD64"}
        or not torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    ):
        return False
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001
    return dtype is torch.float32


def source_dtype(held: WeightFormat) -> torch.dtype:
    """The type that weights are wanted in before they are packed."""
    return _FLOATS.get(held, torch.float32)


def pack_rows(rows: torch.Tensor, held: WeightFormat) -> Block:
    """Hold a copy of rows [rows, columns] of floats in a format, on the device where they are."""
    if held is WeightFormat.INT8:
        return _pack_int8(rows.float())
    if held is WeightFormat.INT4:
        return _pack_int4(rows.float())
    dtype = _FLOATS[held]
    if reorders(dtype, rows.device):
        weight = rows.to(dtype).contiguous()
        ordered = torch.ops.mkldnn._reorder_linear_weight(weight)  # noqa: SLF001
        return _Reordered(weight=ordered, dtype=dtype)
    return _Plain(weight=rows.to(dtype, copy=True, memory_format=torch.contiguous_format))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reordered:
    weight: torch.Tensor
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return self.weight.numel() * self.dtype.itemsize

    def multiply(self, values: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(  # noqa: SLF001
            values, self.weight, None, "none", [], ""
        )
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plain:
    weight: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes

    @property
    def dtype(self) -> torch.dtype:
        is_slow = self.weight.dtype is torch.float16 and self.weight.device.type == "cpu"
        return torch.float32 if is_slow else self.weight.dtype

    def multiply(self, values: torch.Tensor) -> torch.Tensor:
        return linear(values, self.weight.to(values.dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Int8:
    """`weight` int8 [rows, padded columns], `scales` bfloat16 [rows]."""

    weight: torch.Tensor
    scales: torch.Tensor

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.scales.nbytes

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def multiply(self, values: torch.Tensor) -> torch.Tensor:
        padded = _padded(values, self.weight.shape[1])
        if len(values) <= _FEW_ROWS:
            return torch.ops.aten._weight_int8pack_mm(padded, self.weight, self.scales)  # type: ignore[no-any-return]  # noqa: SLF001
        return linear(padded, self.weight.to(torch.bfloat16)) * self.scales


@dataclass(frozen=True, slots=True, kw_only=True)
class _Int4:
    """`weight` as torch packs it for the device; `groups` bfloat16 [groups, rows, 2]."""

    weight: torch.Tensor
    groups: torch.Tensor
    num_rows: int

    @property
    def num_bytes(self) -> int:
        return self.weight.nbytes + self.groups.nbytes

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16

    def multiply(self, values: torch.Tensor) -> torch.Tensor:
        padded = _padded(values, len(self.groups) * GROUP)
        kernel = (
            torch.ops.aten._weight_int4pack_mm_for_cpu  # noqa: SLF001
            if values.device.type == "cpu"
            else torch.ops.aten._weight_int4pack_mm  # noqa: SLF001
        )
        product: torch.Tensor = kernel(padded, self.weight, GROUP, self.groups)
        return product[:, : self.num_rows]


def _pack_int8(rows: torch.Tensor) -> _Int8:
    scales = _not_zero(rows.abs().amax(dim=1) / 127).to(torch.bfloat16)
    levels = (rows / scales.float()[:, None]).round_().clamp_(-127, 127).to(torch.int8)
    return _Int8(weight=_padded(levels, _up(rows.shape[1], GROUP)).contiguous(), scales=scales)


def _pack_int4(rows: torch.Tensor) -> _Int4:
    """A value is (level - 8) · scale + middle, level 0 to 15."""
    num_rows, columns = rows.shape
    padded = pad(rows, (0, -columns % GROUP, 0, -num_rows % _ROW_UNIT))
    grouped = padded.view(len(padded), -1, GROUP)
    low, high = grouped.aminmax(dim=-1)
    scales = _not_zero((high - low) / 15).to(torch.bfloat16)
    middles = (low + 8 * scales.float()).to(torch.bfloat16)
    offsets = grouped.sub(middles.float()[..., None]).div_(scales.float()[..., None])
    levels = offsets.round_().add_(8).clamp_(0, 15).to(torch.int32).view(padded.shape)
    groups = torch.stack((scales, middles), dim=-1).transpose(0, 1).contiguous()
    return _Int4(weight=_int4_weight(levels), groups=groups, num_rows=num_rows)


def _int4_weight(levels: torch.Tensor) -> torch.Tensor:
    """Levels int32 [rows, columns], two to a byte as the device's kernel wants them."""
    if levels.device.type == "cpu":
        return torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)  # type: ignore[no-any-return]  # noqa: SLF001
    pairs = (levels[:, ::2] << 4 | levels[:, 1::2]).to(torch.uint8)
    inner_tiles = next(tiles for tiles in (8, 4, 2) if levels.shape[1] % (16 * tiles) == 0)
    return torch.ops.aten._convert_weight_to_int4pack(pairs, inner_tiles)  # type: ignore[no-any-return]  # noqa: SLF001


def _not_zero(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales > torch.finfo(torch.bfloat16).tiny, scales, 1.0)


def _padded(values: torch.Tensor, columns: int) -> torch.Tensor:
    missing = columns - values.shape[1]
    return pad(values, (0, missing)) if missing else values


def _up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
