"""A safetensors file that is never written: a header, then byte ranges of other files.

bytes   0 ........ len(header) | extent 0 | extent 1 | …
        synthesised            | read from the model's own files
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import FileIO
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgepipe.coordinator.safetensors_source import ITEM_BYTES
from edgepipe.coordinator.source import SourceTensor
from edgepipe.errors import DamagedWeights

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """A run of bytes in a file."""

    path: Path
    offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The file's header and where its data comes from."""

    header: bytes
    extents: tuple[Extent, ...]

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return len(self.header) + sum(extent.size_bytes for extent in self.extents)

    def identity(self) -> str:
        """Changes with the header and with the path, size or time of a file it reads."""
        digest = hashlib.sha256(self.header)
        for extent in self.extents:
            stat = extent.path.stat()
            digest.update(
                f"{extent.path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}"
                f"\0{extent.offset}\0{extent.size_bytes}\0".encode()
            )
        return digest.hexdigest()

    def open(self) -> LayoutReader:
        """A reader, to be used as a context manager."""
        return LayoutReader(self)


class LayoutReader:
    """Reads ranges of a layout; holds the source files open. For one thread at a time."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        sizes = (extent.size_bytes for extent in layout.extents)
        self._starts = list(accumulate(sizes, initial=len(layout.header)))
        self._files: dict[Path, FileIO] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the source files."""
        self._stack.close()
        self._files.clear()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer at the end.

        Raises:
            DamagedWeights: a source file is gone, or shorter than it was.
        """
        return b"".join(self._pieces(offset, min(offset + length, self._layout.size_bytes)))

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from `offset` to the end, in pieces of at most CHUNK_BYTES."""
        for start in range(offset, self._layout.size_bytes, CHUNK_BYTES):
            yield self.read(start, CHUNK_BYTES)

    def _pieces(self, start: int, end: int) -> Iterator[bytes]:
        yield self._layout.header[start:end]
        start = max(start, len(self._layout.header))
        while start < end:
            index = bisect_right(self._starts, start) - 1
            extent, within = self._layout.extents[index], start - self._starts[index]
            length = min(extent.size_bytes - within, end - start)
            yield self._read_file(extent.path, extent.offset + within, length)
            start += length

    def _read_file(self, path: Path, offset: int, length: int) -> bytes:
        try:
            file = self._file(path)
            file.seek(offset)
            data = file.read(length)
        except OSError as error:
            raise DamagedWeights(
                f"{path} can no longer be read ({error.strerror}): restore it."
            ) from error
        if len(data) != length:
            raise DamagedWeights(f"{path} is shorter than its header says: download it again.")
        return data

    def _file(self, path: Path) -> FileIO:
        if path not in self._files:
            self._files[path] = self._stack.enter_context(FileIO(path))
        return self._files[path]


def lay_out(tensors: Sequence[SourceTensor]) -> Layout:
    """The safetensors file that holds `tensors`, widest items first so that all are aligned."""
    ordered = sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.name))
    header: dict[str, Any] = _metadata(ordered)
    offset = 0
    for tensor in ordered:
        end = offset + tensor.size_bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        }
        offset = end
    extents = (Extent(path=t.path, offset=t.offset, size_bytes=t.size_bytes) for t in ordered)
    return Layout(
        header=_encode(header), extents=tuple(extent for extent in extents if extent.size_bytes)
    )


def _metadata(tensors: Sequence[SourceTensor]) -> dict[str, Any]:
    """`__metadata__` of a part whose tensors come from a `.gguf`; nothing otherwise."""
    origins = {tensor.name: tensor.gguf for tensor in tensors if tensor.gguf is not None}
    if not origins:
        return {}
    described = {
        "architecture": next(iter(origins.values())).architecture,
        "tensors": {
            name: {"type": origin.type, "shape": origin.shape, "name": origin.name}
            for name, origin in origins.items()
        },
    }
    return {"__metadata__": {"gguf": json.dumps(described, separators=(",", ":"))}}


def _encode(header: dict[str, Any]) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded
