"""One part: a safetensors file of which single tensors are read, in pieces, never mapped.

Mapped pages count as the process's memory, and so does a tensor that is read whole before it is
converted; both are avoided here. Every number in the header is checked before it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import torch
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES

from edgepipe.errors import DamagedWeights

PIECE_BYTES = 1 << 20
_MAX_HEADER_BYTES = 64 << 20
_MAX_DIMENSIONS = 8

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls an element type, and torch's name for it."""

FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOrigin:
    """Where a tensor of a GGUF source comes from. `kind` is None where it is stored plain."""

    architecture: str
    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """A tensor in a part: `num_bytes` bytes from `offset` of `path` on."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    gguf: GgufOrigin | None = None

    def damaged(self, why: str) -> DamagedWeights:
        """The error that names this tensor and its file."""
        return DamagedWeights(f"The tensor {self.name} in {self.path} {why}; fetch it again.")

    def rows(self, first: int, end: int) -> StoredTensor:
        """Rows [first, end) of a tensor of at least one dimension, as a tensor of its own."""
        row_bytes = self.num_bytes // self.shape[0]
        origin = self.gguf and replace(self.gguf, shape=(end - first, *self.gguf.shape[1:]))
        return replace(
            self,
            shape=(end - first, *self.shape[1:]),
            offset=self.offset + first * row_bytes,
            num_bytes=(end - first) * row_bytes,
            gguf=origin,
        )

    def pieces(self, unit_bytes: int) -> Iterator[memoryview]:
        """The tensor's bytes, in order; each piece is a whole number of units.

        A piece is overwritten by the next one.
        """
        buffer = memoryview(bytearray(min(self.num_bytes, _piece_bytes(unit_bytes))))
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            left = self.num_bytes
            while left:
                piece = buffer[: min(left, len(buffer))]
                _fill(file, piece, self)
                left -= len(piece)
                yield piece


def _piece_bytes(unit_bytes: int) -> int:
    return max(unit_bytes, PIECE_BYTES // unit_bytes * unit_bytes)


def _fill(file: Any, piece: memoryview, tensor: StoredTensor) -> None:
    done = 0
    while done < len(piece):
        count = file.readinto(piece[done:])
        if not count:
            raise tensor.damaged("is cut short")
        done += count


def read_part(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a part, by name. Raises DamagedWeights where its header is not sound."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise DamagedWeights(f"The weight file {path} cannot be read: {error.strerror}.") from error
    with file:
        size = path.stat().st_size
        header, data_start = _read_header(file, path, size)
    origins = _gguf_origins(header.pop("__metadata__", None), path)
    stored = {name: _stored(path, name, entry, data_start) for name, entry in header.items()}
    for name, tensor in stored.items():
        _check_size(tensor, size)
        if origin := origins.get(name):
            _check_origin(tensor, origin)
            stored[name] = replace(tensor, gguf=origin)
    return stored


def _read_header(file: BinaryIO, path: Path, size: int) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(_MAX_HEADER_BYTES, size - 8):
        raise DamagedWeights(f"The weight file {path} is not a safetensors file; fetch it again.")
    try:
        header = json.loads(file.read(length))
    except ValueError as error:
        raise DamagedWeights(f"The header of {path} is damaged; fetch it again.") from error
    if not isinstance(header, dict):
        raise DamagedWeights(f"The header of {path} is damaged; fetch it again.")
    return header, 8 + length


def _stored(path: Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    try:
        dtype, shape = str(entry["dtype"]), _shape(entry["shape"])
        first, end = (int(offset) for offset in entry["data_offsets"])
        item_bytes = TORCH_DTYPES[dtype].itemsize
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedWeights(
            f"The header of {path} is damaged at the tensor {name}; fetch it again."
        ) from error
    stored = StoredTensor(
        path=path,
        name=name,
        dtype=dtype,
        shape=shape,
        offset=data_start + first,
        num_bytes=end - first,
    )
    if first < 0 or end - first != math.prod(shape) * item_bytes:
        raise stored.damaged("does not have the bytes that its shape wants")
    return stored


def _check_size(stored: StoredTensor, size: int) -> None:
    beyond = stored.offset + stored.num_bytes - size
    if beyond > 0:
        raise stored.damaged(f"ends {beyond} bytes after its file does")


def _shape(value: Any) -> tuple[int, ...]:
    shape = tuple(int(size) for size in value)
    if not isinstance(value, list) or len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(shape)
    return shape


def _check_origin(stored: StoredTensor, origin: GgufOrigin) -> None:
    """What is stored must be what the GGUF description says: rows of blocks, or plain values."""
    if origin.kind is None:
        sound = stored.dtype in FLOAT_DTYPES and stored.shape == origin.shape
    else:
        block_values, block_bytes = GGML_QUANT_SIZES[origin.kind]
        *rows, columns = origin.shape
        blocks, rest = divmod(columns, block_values)
        sound = stored.dtype == "U8" and not rest and stored.shape == (*rows, blocks * block_bytes)
    if not sound:
        raise stored.damaged("is not what its GGUF description says")


def _gguf_origins(metadata: Any, path: Path) -> dict[str, GgufOrigin]:
    if not isinstance(metadata, Mapping) or "gguf" not in metadata:
        return {}
    try:
        described = json.loads(metadata["gguf"])
        architecture = str(described["architecture"])
        return {
            name: _origin(architecture, tensor) for name, tensor in described["tensors"].items()
        }
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise DamagedWeights(
            f"The GGUF description in {path} is damaged; fetch it again."
        ) from error


def _origin(architecture: str, tensor: Mapping[str, Any]) -> GgufOrigin:
    kind = GGMLQuantizationType[tensor["type"]]
    plain = kind.name in FLOAT_DTYPES
    shape = _shape(tensor["shape"])
    if not shape:
        raise ValueError(shape)
    return GgufOrigin(
        architecture=architecture,
        name=str(tensor["name"]),
        shape=shape,
        kind=None if plain else kind,
    )
