"""A model's weights, cut into content-addressed parts: what agents cache and stages read.

One part for each decoder layer, one for each tensor outside the layers. A part is a safetensors
file, put together from byte ranges of the model's own files while it is read: the coordinator
never holds more than a few chunks of it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from edgepipe.coordinator.layout import Layout, LayoutReader, lay_out
from edgepipe.coordinator.source import SourceTensor
from edgepipe.errors import ModelError
from edgepipe.home import write_atomically

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all), from any thread."""

_LAYER = re.compile(r"(?P<layer>.*?\.\d+)\.")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_HASHERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One content-addressed safetensors file; `tensors` are named as the model's class does."""

    sha256: str
    size_bytes: int
    tensors: tuple[str, ...]
    layout: Layout

    def open(self) -> LayoutReader:
        """A reader of the part's bytes, to be used as a context manager."""
        return self.layout.open()

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on, fewer at the end."""
        with self.open() as reader:
            return reader.read(offset, length)

    def write(self, folder: Path) -> Path:
        """Write the part into a folder, named for its hash; returns its path."""
        path = folder / f"{self.sha256}.safetensors"
        with path.open("wb") as file, self.open() as reader:
            for chunk in reader.chunks():
                file.write(chunk)
        return path


def build_parts(
    source: Iterable[SourceTensor],
    names: Collection[str],
    *,
    home: Path,
    progress: Progress = lambda _done, _total: None,
) -> tuple[Part, ...]:
    """Cut a model into parts and hash them (slow the first time: call it in a thread).

    Args:
        source: the model's tensors as its files name them.
        names: every tensor of the model's class, in the model's order. Tensors of other names
            (masks, rotary tables) are left out. A checkpoint that was written without the
            class's prefix, or with one more, is renamed as transformers does.
        home: EDGEPIPE_HOME; hashes are cached there and not computed again.
        progress: called while parts are hashed.

    Raises:
        DamagedWeights: a file of the model cannot be read to its end.
    """
    groups = _group(_rename(source, names), names)
    layouts = [lay_out(tensors) for tensors in groups]
    hashes = _hash_all(layouts, home / "hashes", progress)
    return tuple(
        Part(
            sha256=sha256,
            size_bytes=layout.size_bytes,
            tensors=tuple(tensor.name for tensor in tensors),
            layout=layout,
        )
        for tensors, layout, sha256 in zip(groups, layouts, hashes, strict=True)
    )


def parts_for(parts: Iterable[Part], tensors: Iterable[str]) -> tuple[Part, ...]:
    """The parts that hold the named tensors, each once, in the tensors' order.

    Raises:
        ModelError: no part has one of them.
    """
    by_tensor = {name: part for part in parts for name in part.tensors}
    needed: dict[str, Part] = {}
    for name in tensors:
        if name not in by_tensor:
            raise ModelError(
                f"The model's weights lack the tensor {name}: its files are incomplete, or of "
                "another model than its config.json; download it again."
            )
        part = by_tensor[name]
        needed[part.sha256] = part
    return tuple(needed.values())


def _rename(source: Iterable[SourceTensor], names: Collection[str]) -> dict[str, SourceTensor]:
    """The source's tensors by the class's names."""
    wanted = frozenset(names)
    prefixes = sorted({name.partition(".")[0] for name in wanted})
    renamed: dict[str, SourceTensor] = {}
    for tensor in source:
        spellings = (
            tensor.name,
            *(f"{prefix}.{tensor.name}" for prefix in prefixes),
            tensor.name.partition(".")[2],
        )
        name = next((spelling for spelling in spellings if spelling in wanted), None)
        if name is not None:
            renamed[name] = replace(tensor, name=name)
    return renamed


def _group(tensors: dict[str, SourceTensor], names: Iterable[str]) -> list[list[SourceTensor]]:
    """The tensors of each layer together, every other tensor alone, in the order of `names`."""
    groups: dict[str, list[SourceTensor]] = {}
    for name in names:
        if name in tensors:
            layer = _LAYER.match(name)
            groups.setdefault(layer["layer"] if layer else name, []).append(tensors[name])
    return list(groups.values())


def _hash_all(layouts: Sequence[Layout], cache: Path, progress: Progress) -> list[str]:
    """SHA-256 of each layout, in a few threads (hashlib lets go of the GIL)."""
    total, done = sum(layout.size_bytes for layout in layouts), 0
    hashes = []
    with ThreadPoolExecutor(min(_MAX_HASHERS, os.cpu_count() or 1)) as pool:
        for layout, sha256 in zip(
            layouts, pool.map(lambda layout: _hash(layout, cache), layouts), strict=True
        ):
            hashes.append(sha256)
            done += layout.size_bytes
            progress(done, total)
    return hashes


def _hash(layout: Layout, cache: Path) -> str:
    entry = cache / layout.identity()
    if entry.is_file() and _SHA256.fullmatch(known := entry.read_text(errors="replace")):
        return known
    digest = hashlib.sha256()
    with layout.open() as reader:
        for chunk in reader.chunks():
            digest.update(chunk)
    write_atomically(entry, digest.hexdigest().encode())
    return digest.hexdigest()
