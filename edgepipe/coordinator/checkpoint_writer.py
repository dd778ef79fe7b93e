"""A checkpoint on its way to the disk: it appears whole, or not at all.

    checkpoints/step-000060.partial/
        layer-00007.safetensors  head.safetensors  …    in any order, several at a time
        manifest.json                                   last
    checkpoints/step-000060/                            the folder's new name, once all is synced

Every method blocks on the disk: call it in a thread. Units may be written from different threads;
the pieces of one unit come in order, one call after the other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edgepipe.coordinator.checkpoints import (
    PARTIAL,
    REPLACED,
    checkpoints_folder,
    step_name,
    writing,
)
from edgepipe.coordinator.manifest import (
    MANIFEST_NAME,
    MAX_UNIT_BYTES,
    Manifest,
    UnitFile,
    is_unit,
    unit_name,
)
from edgepipe.coordinator.manifest_file import write_manifest
from edgepipe.errors import WireError
from edgepipe.home import sync_folder

_SAME = "run one version of edgepipe everywhere"


class CheckpointWriter:
    """Writes one checkpoint of a run; a context manager that leaves nothing half done behind.

    Args:
        run: the run's folder.
        facts: the manifest, without its files.
        units: every unit that the stages have between them.

    Raises:
        CheckpointError: the disk takes no more; what is there already is as it was.
        WireError: a stage sends what it was not asked for.
    """

    def __init__(self, run: Path, facts: Manifest, units: Collection[str]) -> None:
        self._facts = facts
        self._units = frozenset(units)
        self._folder = checkpoints_folder(run) / step_name(facts.step)
        self._partial = self._folder.with_name(self._folder.name + PARTIAL)
        self._open: dict[str, _UnitWriter] = {}
        self._done: dict[str, UnitFile] = {}
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        for unit in units:
            if not is_unit(unit, facts.num_layers):
                raise WireError(f"a stage has a state {unit[:80]!r}, which no model has: {_SAME}")
        with writing(self._partial):
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def missing(self) -> frozenset[str]:
        """The units that are not whole yet."""
        return self._units - self._done.keys()

    def append(self, unit: str, data: bytes | memoryview) -> None:
        """Add the next bytes of a unit's file."""
        writer = self._writer(unit)
        if writer.size_bytes + len(data) > MAX_UNIT_BYTES:
            raise WireError(f"the state of {unit} is larger than any may be: {_SAME}")
        with writing(writer.path):
            writer.append(data)

    def finish(self, unit: str) -> None:
        """The unit's file is whole: have it on the disk."""
        writer = self._writer(unit)
        with writing(writer.path):
            writer.close(sync=True)
        with self._lock:
            del self._open[unit]
            self._done[unit] = UnitFile(
                unit=unit, sha256=writer.digest.hexdigest(), size_bytes=writer.size_bytes
            )

    def commit(self) -> Path:
        """Give the checkpoint its name, once every unit is whole; returns its folder.

        `close` waits for that, or comes first: then there is nothing to commit.
        """
        with self._ending:
            return self._commit()

    def _commit(self) -> Path:
        if self.missing:
            raise WireError(f"the state of {min(self.missing)} did not arrive: {_SAME}")
        files = tuple(self._done[unit] for unit in sorted(self._done))
        content = write_manifest(replace(self._facts, files=files))
        with writing(self._folder):
            with FileIO(self._partial / MANIFEST_NAME, "w") as file:
                _write_all(file, content)
                os.fsync(file.fileno())
            sync_folder(self._partial)
            self._rename()
        return self._folder

    def close(self) -> None:
        """Let go of the files, and of all that is not committed."""
        with self._lock:
            writers, self._open = list(self._open.values()), {}
        for writer in writers:
            writer.close(sync=False)
        with self._ending:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _rename(self) -> None:
        """One of the same step, of a run that went another way, makes room first."""
        replaced = self._folder.with_name(self._folder.name + REPLACED)
        if self._folder.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            self._folder.rename(replaced)
        self._partial.rename(self._folder)
        sync_folder(self._folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)

    def _writer(self, unit: str) -> _UnitWriter:
        with self._lock:
            if unit not in self.missing:
                raise WireError(f"the state of {unit[:80]!r} was not asked for: {_SAME}")
            if unit not in self._open:
                self._open[unit] = _UnitWriter(path=self._partial / unit_name(unit))
            return self._open[unit]


@dataclass(slots=True, kw_only=True)
class _UnitWriter:
    """One file, hashed while it is written."""

    path: Path
    size_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    _file: FileIO | None = None

    def append(self, data: bytes | memoryview) -> None:
        if self._file is None:
            self._file = FileIO(self.path, "w")
        _write_all(self._file, data)
        self.digest.update(data)
        self.size_bytes += len(data)

    def close(self, *, sync: bool) -> None:
        file, self._file = self._file, None
        if file is not None:
            with file:
                if sync:
                    os.fsync(file.fileno())


def _write_all(file: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
