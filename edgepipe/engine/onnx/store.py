"""Built stages, kept by what they were built of.

    FOLDER/<sha256>/stage.onnx  weights.bin  stage.json

A folder appears whole or not at all, and is dropped when it was not used for longest and all
take more than they may. Files are compared with the sizes in stage.json, the graph with its hash
too; weights are mapped and read by nobody before they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from edgepipe.engine.base import StageSpec

DATA_NAME = "weights.bin"
GRAPH_NAME = "stage.onnx"

_FORMAT = 1
_DESCRIPTION_NAME = "stage.json"
_MAX_BYTES = 20 << 30
_MAX_SHARE_OF_DISK = 0.25
_ABANDONED_S = 24 * 3600
_ENTRY = re.compile(r"[0-9a-f]{64}")
_LIBRARIES = ("onnxruntime", "onnxruntime-genai", "onnx-ir", "transformers")
_IDLE_FIELDS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


@dataclass(frozen=True, slots=True, kw_only=True)
class KVSize:
    """What one layer caches per position."""

    heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a built stage holds: bytes of its weights, and its own layers' keys and values."""

    weight_bytes: int
    kv: tuple[KVSize, ...]
    graph_sha256: str = field(default="")

    def write(self, folder: Path) -> None:
        """Write it beside the graph, whose hash it takes."""
        fields = {**asdict(self), "graph_sha256": _hash(folder / GRAPH_NAME)}
        (folder / _DESCRIPTION_NAME).write_text(json.dumps(fields), encoding="utf-8")


def read_description(folder: Path) -> Description | None:
    """The description of a stage whose files are whole; None where they are not."""
    try:
        fields = json.loads((folder / _DESCRIPTION_NAME).read_text(encoding="utf-8"))
        found = Description(
            weight_bytes=int(fields["weight_bytes"]),
            kv=tuple(KVSize(**layer) for layer in fields["kv"]),
            graph_sha256=str(fields["graph_sha256"]),
        )
        size = (folder / DATA_NAME).stat().st_size
        sound = size == found.weight_bytes and _hash(folder / GRAPH_NAME) == found.graph_sha256
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if sound else None


def stage_key(spec: StageSpec, builder_name: str) -> str:
    """The sha256 of everything that a built stage depends on."""
    config = {name: value for name, value in spec.config.items() if name not in _IDLE_FIELDS}
    described = {
        "format": _FORMAT,
        "versions": [(name, _version(name)) for name in _LIBRARIES],
        "builder": builder_name,
        "config": config,
        "stage": [spec.first, spec.end, spec.embedding, spec.head],
        "held": [spec.dtype, spec.weight_format],
        "options": dict(spec.options),
        "parts": sorted(_part_id(path) for path in spec.weights),
    }
    text = json.dumps(described, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _version(distribution: str) -> str:
    return version(distribution)


def _part_id(path: Path) -> str:
    """A part in a store of blobs is named by its hash."""
    stem = path.name.partition(".")[0]
    if _ENTRY.fullmatch(stem):
        return stem
    found = path.stat()
    return f"{path.resolve()}:{found.st_size}:{found.st_mtime_ns}"


class StageStore:
    """Built stages under a folder, up to `max_bytes` of them."""

    def __init__(self, folder: Path, *, max_bytes: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        share = int(shutil.disk_usage(folder).total * _MAX_SHARE_OF_DISK)
        self._folder = folder
        self._max_bytes = min(_MAX_BYTES, share) if max_bytes is None else max_bytes

    def path(self, key: str) -> Path:
        """Where the stage of that key is, or will be."""
        return self._folder / key

    def find(self, key: str) -> Description | None:
        """What the stage of that key holds, if it is here and whole; it counts as used."""
        found = read_description(self.path(key))
        if found is not None:
            os.utime(self.path(key))
        return found

    def add(self, key: str, build: Callable[[Path], None]) -> None:
        """Build a stage in place of whatever was there; older ones make room for it."""
        with _folder_aside(self._folder) as aside:
            build(aside)
            shutil.rmtree(self.path(key), ignore_errors=True)
            try:
                aside.rename(self.path(key))
            except OSError:  # somebody else built it meanwhile
                if read_description(self.path(key)) is None:
                    raise
        self._make_room(key)

    def _make_room(self, newest: str) -> None:
        entries = {path: _size(path) for path in self._entries() if path.name != newest}
        excess = sum(entries.values()) + _size(self.path(newest)) - self._max_bytes
        for path in sorted(entries, key=_last_used):
            if excess <= 0:
                return
            shutil.rmtree(path, ignore_errors=True)
            excess -= entries[path]

    def _entries(self) -> Iterator[Path]:
        for path in self._folder.iterdir():
            if _ENTRY.fullmatch(path.name):
                yield path
            elif path.name.startswith(".") and time.time() - _last_used(path) > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(folder: Path) -> int:
    return sum(_stat(path, "st_size") for path in folder.glob("*"))


def _last_used(path: Path) -> int:
    return _stat(path, "st_mtime")


def _stat(path: Path, name: str) -> int:
    """A file that is gone meanwhile has no size and no age."""
    try:
        return int(getattr(path.stat(), name))
    except OSError:
        return 0
