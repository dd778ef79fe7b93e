"""Where one tensor of a model lies on this machine's disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufOrigin:
    """What a tensor is in its `.gguf` file: enough to dequantise it elsewhere.

    `shape` is that of the dequantised array, outermost dimension first.
    """

    architecture: str
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """A run of bytes in a file that is one tensor, row-major and little-endian.

    `dtype` is safetensors' word for it and `shape` the stored one: U8 [rows, row_bytes] for
    quantised blocks.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    size_bytes: int
    gguf: GgufOrigin | None = None
