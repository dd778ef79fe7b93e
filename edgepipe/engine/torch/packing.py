"""Linear modules that hold their weight in a weight format, block by block of its rows.

    weight [out, in]      ┌──────────┐ block ─▶ [n, …]─┐
    read and packed  ───▶ ├──────────┤ block ─▶ [n, …]─┼─▶ [n, out]
    piece by piece        └──────────┘ block ─▶ [n, …]─┘

Blocks bound what packing and widening take for a while. Nothing here can be trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.torch.anatomy import Anatomy, Cut
from edgepipe.engine.torch.blocks import Block, check_device, pack_rows, source_dtype
from edgepipe.engine.torch.linear import plain_linears

_BLOCK_VALUES = {"cpu": 1 << 21, "cuda": 1 << 25}


class PackedLinear(torch.nn.Module):
    """Stands for a linear module; its output has the input's type."""

    bias: torch.nn.Parameter | None

    def __init__(self, blocks: Iterable[Block], bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.blocks = tuple(blocks)
        self.register_parameter("bias", bias)
        self._dtype = self.blocks[0].dtype

    @property
    def num_bytes(self) -> int:
        """What the weight takes, without the bias."""
        return sum(block.num_bytes for block in self.blocks)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Multiply [..., in] to [..., out]."""
        rows = values.reshape(-1, values.shape[-1]).to(self._dtype)
        products = [block.multiply(rows) for block in self.blocks]
        product = products[0] if len(products) == 1 else torch.cat(products, dim=-1)
        output = product.to(values.dtype).view(*values.shape[:-1], -1)
        return output if self.bias is None else output + self.bias


class Packing:
    """Which weights of a stage are packed: those of linear modules in its layers and its head.

    A head that shares the embedding's table gets a weight of its own. Raises ModelError where the
    device cannot multiply by the format.
    """

    def __init__(
        self,
        model: Any,
        anatomy: Anatomy,
        cut: Cut,
        held: WeightFormat,
        device: torch.device,
    ) -> None:
        check_device(held, device)
        self._model = model
        self._device = device
        self._head = frozenset(f"{name}.weight" for name in anatomy.after)
        self.held = held
        self.names = frozenset(plain_linears(model, anatomy, cut))

    def held_of(self, name: str) -> WeightFormat:
        """What a weight is held as."""
        return self.held.of_head if name in self._head else self.held

    @property
    def dtype(self) -> torch.dtype:
        """The type that weights are wanted in."""
        return source_dtype(self.held)

    def row_ranges(self, rows: int, columns: int) -> Iterator[tuple[int, int]]:
        """The blocks of a weight, as ranges of its rows."""
        values = _BLOCK_VALUES.get(self._device.type, _BLOCK_VALUES["cuda"])
        step = max(1, values // max(1, columns))
        return ((first, min(first + step, rows)) for first in range(0, rows, step))

    def blocks(self, name: str, weight: torch.Tensor) -> Iterator[Block]:
        """The blocks of a weight that is there as a whole, as its module holds it."""
        module = self._model.get_submodule(name.removesuffix(".weight"))
        rows = weight.T if isinstance(module, Conv1D) else weight
        for first, end in self.row_ranges(*rows.shape):
            yield pack_rows(rows[first:end], self.held_of(name))

    def place(self, name: str, blocks: Iterable[Block]) -> int:
        """Put blocks in place of a weight; returns their bytes."""
        path = name.removesuffix(".weight")
        parent, _, leaf = path.rpartition(".")
        packed = PackedLinear(blocks, self._model.get_submodule(path).bias)
        setattr(self._model.get_submodule(parent), leaf, packed)
        return packed.num_bytes


def pack_linears(
    model: Any,
    anatomy: Anatomy,
    cut: Cut,
    weight_format: WeightFormat | None,
    device: torch.device,
) -> None:
    """Pack the linear modules of a stage whose weights are loaded, in place.

    None packs nothing. Hooks of the modules are lost. Raises ModelError where the device cannot
    multiply by the format.
    """
    if weight_format is None:
        return
    packing = Packing(model, anatomy, cut, weight_format, device)
    for name in sorted(packing.names):
        packing.place(name, packing.blocks(name, model.get_parameter(name).detach()))
