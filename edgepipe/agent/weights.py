"""An agent's cache of weights: content-addressed files, shared by all agents of one home.

EDGEPIPE_HOME/weights/<sha256>.safetensors           verified
EDGEPIPE_HOME/weights/<sha256>.<node>.partial        on its way; the next offer resumes it
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from edgepipe.errors import DamagedWeights, NodeError

KEEP_FREE_BYTES = 1 << 30
_READ_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_WRITERS = 8
"""Most transfers of one blob to one node at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobId:
    """A blob as it is offered: checked, so that it may become a file's name."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not _SHA256.fullmatch(self.sha256) or self.size_bytes < 1:
            raise DamagedWeights(
                f"The coordinator offered weights under a malformed name ({self.sha256[:80]!r}, "
                f"{self.size_bytes} bytes): use the same version of edgepipe on both machines."
            )


class WeightStore:
    """The cache under one home. Every method does file I/O: call it off the event loop."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "weights"
        self._busy: set[Path] = set()
        self._lock = threading.Lock()

    def path(self, sha256: str) -> Path:
        """Where a blob lies once it is here.

        Raises:
            DamagedWeights: `sha256` is not 64 lower-case hexadecimal digits.
        """
        return self.folder / f"{BlobId(sha256=sha256, size_bytes=1).sha256}.safetensors"

    def has(self, sha256: str) -> bool:
        """Whether a blob is here; it was verified before it got its name."""
        return self.path(sha256).is_file()

    def holds(self, blob: BlobId) -> bool:
        """Whether a blob is here in its full size; a file of another size is removed."""
        path = self.path(blob.sha256)
        if not path.is_file():
            return False
        if path.stat().st_size == blob.size_bytes:
            return True
        path.unlink(missing_ok=True)
        return False

    def partial_bytes(self, sha256: str, node: str) -> int:
        """How much of a blob an earlier transfer to `node` left here."""
        return _size(self._partial(sha256, node, 0))

    def begin(self, blob: BlobId, node: str) -> BlobWriter:
        """Reserve a partial file for a transfer; what is there already is kept.

        Raises:
            NodeError: too many transfers of this blob to this node are under way.
        """
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            candidates = (self._partial(blob.sha256, node, i) for i in range(_MAX_WRITERS))
            path = next((path for path in candidates if path not in self._busy), None)
            if path is None:
                raise NodeError(
                    f"{_MAX_WRITERS} transfers of weights {blob.sha256[:12]} to {node} are under "
                    "way: wait for one to end."
                )
            self._busy.add(path)
        if _size(path) > blob.size_bytes:
            path.unlink(missing_ok=True)
        return BlobWriter(store=self, blob=blob, path=path, offset=_size(path))

    def check_room(self, num_bytes: int) -> None:
        """Refuse what would leave the disk with less than KEEP_FREE_BYTES.

        Raises:
            NodeError: says what is needed, what is free, and how to clear the cache.
        """
        free = shutil.disk_usage(self.folder).free
        if num_bytes > max(0, free - KEEP_FREE_BYTES):
            raise NodeError(
                f"The weights need {_gib(num_bytes)} more and the disk of {self.folder} has "
                f"{_gib(free)} free, of which {_gib(KEEP_FREE_BYTES)} are kept: "
                "delete files in that folder that you no longer need."
            )

    def release(self, path: Path) -> None:
        """Let another transfer use a partial file."""
        with self._lock:
            self._busy.discard(path)

    def _partial(self, sha256: str, node: str, attempt: int) -> Path:
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", node)[:64]
        number = f"-{attempt}" if attempt else ""
        return self.folder / f"{self.path(sha256).stem}.{safe}{number}.partial"


@dataclass(slots=True, kw_only=True)
class BlobWriter:
    """One transfer into one partial file, `offset` bytes of which are here. For one thread."""

    store: WeightStore
    blob: BlobId
    path: Path
    offset: int
    _file: FileIO | None = field(default=None, init=False)
    _digest: Any = field(default_factory=hashlib.sha256, init=False)

    def append(self, data: bytes) -> None:
        """Add the next bytes.

        Raises:
            NodeError: the disk takes no more.
        """
        with _writing(self.path):
            _write_all(self._open(), data)
        self._digest.update(data)
        self.offset += len(data)

    def is_valid(self) -> bool:
        """Whether all is here and is what its name says. If not, the file is emptied."""
        file = self._open()
        if self.offset == self.blob.size_bytes and self._digest.hexdigest() == self.blob.sha256:
            return True
        file.seek(0)
        file.truncate()
        self.offset, self._digest = 0, hashlib.sha256()
        return False

    def commit(self) -> None:
        """Give a valid file its final name, once it is on the disk."""
        with _writing(self.path):
            os.fsync(self._open().fileno())
            self.close()
            self.path.replace(self.store.path(self.blob.sha256))

    def discard(self) -> None:
        """Remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file. What was written stays for the next transfer."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.store.release(self.path)

    def _open(self) -> FileIO:
        """The file, at its end; what an earlier transfer left is hashed first."""
        if self._file is None:
            self.path.touch()
            self._file = FileIO(self.path, "r+")
            while data := self._file.read(_READ_BYTES):
                self._digest.update(data)
        return self._file


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NodeError(
            f"Weights cannot be written to {path} ({error.strerror}): make room there, or set "
            "EDGEPIPE_HOME to a folder that can be written."
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _write_all(file: FileIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / (1 << 30):.1f} GiB"
