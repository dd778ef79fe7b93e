"""Tensors as the bytes of a safetensors file, and back, without a second copy of them.

    u64 header length | header (JSON: name -> dtype, shape, data_offsets) | data

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgepipe.errors import DamagedWeights

CHUNK_BYTES = 1 << 20
MAX_HEADER_BYTES = 64 << 20
MAX_DIMENSIONS = 8
MAX_NAME_CHARS = 512
_LENGTH_BYTES = 8
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """One tensor of a file, before its values are there."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_of(tensors: Sequence[Described], metadata: Mapping[str, str] | None = None) -> bytes:
    """What a file begins with whose data are these tensors, in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.num_bytes],
        }
        offset += tensor.num_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(_LENGTH_BYTES, "little") + padded


def file_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """The size of the file that `chunks_of` makes."""
    described = _ordered(tensors)
    return len(header_of(described)) + sum(tensor.num_bytes for tensor in described)


def chunks_of(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """A file of tensors that lie on the host, in pieces of at most CHUNK_BYTES.

    A piece is a view of a tensor's own memory: use it before the tensor changes.
    """
    described = _ordered(tensors)
    yield from _pieces(memoryview(header_of(described)))
    for tensor in described:
        yield from _pieces(bytes_of(tensors[tensor.name]))


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A host tensor's bytes, row-major; its own memory where it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)


def tensors_of(data: bytearray, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a whole file in memory, which they share. `what` names it in sentences.

    Raises:
        DamagedWeights: it is not a safetensors file, or one of its tensors lies outside it.
    """
    header, start = _header(data, what)
    header.pop("__metadata__", None)
    return {name: _tensor(data, start, name, entry, what) for name, entry in header.items()}


def _ordered(tensors: Mapping[str, torch.Tensor]) -> list[Described]:
    """Widest items first, so that all are aligned."""
    described = [
        Described(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))
        for name, tensor in tensors.items()
    ]
    return sorted(described, key=lambda tensor: (-tensor.dtype.itemsize, tensor.name))


def _pieces(data: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]


def _header(data: bytearray, what: str) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(data[:_LENGTH_BYTES], "little")
    header = None
    if 2 <= length <= min(MAX_HEADER_BYTES, len(data) - _LENGTH_BYTES):
        try:
            header = json.loads(bytes(data[_LENGTH_BYTES : _LENGTH_BYTES + length]))
        except (ValueError, RecursionError):
            header = None
    if not isinstance(header, dict):
        raise DamagedWeights(f"{what} is not a whole safetensors file: take it again.")
    return header, _LENGTH_BYTES + length


def _tensor(data: bytearray, start: int, name: str, entry: Any, what: str) -> torch.Tensor:
    match entry:
        case {"dtype": str(word), "shape": list(shape), "data_offsets": [int(first), int(end)]}:
            pass
        case _:
            raise _damaged(what, name)
    sound = len(name) <= MAX_NAME_CHARS and word in _DTYPES and len(shape) <= MAX_DIMENSIONS
    if not sound or not all(type(size) is int and size >= 0 for size in shape):
        raise _damaged(what, name)
    dtype, count = _DTYPES[word], math.prod(shape)
    if not 0 <= first <= end <= len(data) - start or end - first != count * dtype.itemsize:
        raise _damaged(what, name)
    if not count:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=start + first).view(shape)


def _damaged(what: str, name: str) -> DamagedWeights:
    return DamagedWeights(f"{what} is damaged at the tensor {name[:80]!r}: take it again.")
