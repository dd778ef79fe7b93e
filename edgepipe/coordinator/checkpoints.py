"""The checkpoints of a run: found, checked, read and pruned.

    RUN/checkpoints/
        step-000000/  step-000040/  step-000060/     whole: manifest.json and a file per unit
        step-000080.partial/                         being written, or left behind
        step-000060.replaced/                        making room for another of the same step

Every function blocks on the disk: call it in a thread.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgepipe.coordinator.manifest import MANIFEST_NAME, Manifest, UnitFile
from edgepipe.coordinator.manifest_file import read_manifest
from edgepipe.errors import CheckpointError
from edgepipe.home import sync_folder

PARTIAL = ".partial"
REPLACED = ".replaced"
DEFAULT_KEEP = 3
CHUNK_BYTES = 1 << 20
_STEP = re.compile(r"step-(?P<step>\d{6,9})")

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint whose files are what its manifest says."""

    folder: Path
    manifest: Manifest

    @property
    def units(self) -> tuple[str, ...]:
        """What the trained state is kept by."""
        return tuple(file.unit for file in self.manifest.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The safetensors file of each unit."""
        return tuple(self.folder / file.name for file in self.manifest.files)

    def files_of(self, unit: str) -> tuple[Path, ...]:
        """The safetensors file of a unit; none where nothing of it is trained."""
        return tuple(self.folder / file.name for file in self.manifest.files if file.unit == unit)

    def size_bytes(self, unit: str) -> int:
        """Of the unit's file."""
        return self._file(unit).size_bytes

    def chunks(self, unit: str) -> Iterator[bytes]:
        """The bytes of a unit's file, in pieces of at most CHUNK_BYTES. Raises CheckpointError."""
        return _chunks(self.folder, self._file(unit))

    def _file(self, unit: str) -> UnitFile:
        return next(file for file in self.manifest.files if file.unit == unit)


def checkpoints_folder(run: Path) -> Path:
    """Where a run keeps them."""
    return run / "checkpoints"


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:06d}"


def steps(run: Path) -> tuple[int, ...]:
    """The steps that have a checkpoint, rising; whether it is sound shows when it is read."""
    folder = checkpoints_folder(run)
    if not folder.is_dir():
        return ()
    matches = (_STEP.fullmatch(entry.name) for entry in folder.iterdir() if entry.is_dir())
    return tuple(sorted({int(match["step"]) for match in matches if match is not None}))


def latest(run: Path) -> int:
    """The last step that has a checkpoint. Raises CheckpointError where none has."""
    if not (found := steps(run)):
        raise CheckpointError(f"{run} holds no checkpoint: give the folder of a training run.")
    return found[-1]


def read_checkpoint(
    run: Path, step: int, progress: Progress = lambda _done, _total: None
) -> Checkpoint:
    """The checkpoint after `step` steps, with every file's hash checked.

    Raises:
        CheckpointError: there is none, or a file of it is damaged; names the one before it.
    """
    folder = checkpoints_folder(run) / step_name(step)
    if not folder.is_dir():
        there = ", ".join(map(str, steps(run))) or "none"
        raise CheckpointError(f"{run} has no checkpoint of step {step}: choose one of {there}.")
    with _advised(run, step):
        manifest = read_manifest(folder / MANIFEST_NAME)
        if manifest.step != step:
            raise CheckpointError(f"{folder / MANIFEST_NAME} is of step {manifest.step}")
        _check_files(folder, manifest, progress)
    return Checkpoint(folder=folder, manifest=manifest)


def newest_sound(run: Path) -> tuple[Checkpoint | None, tuple[str, ...]]:
    """The last checkpoint whose files are what they should be, and why later ones are not.

    Raises CheckpointError where there are some, and none is sound.
    """
    refused: list[CheckpointError] = []
    for step in reversed(steps(run)):
        try:
            return read_checkpoint(run, step), tuple(map(str, refused))
        except CheckpointError as error:
            refused.append(error)
    if refused:
        raise refused[0]
    return None, ()


def clear_leftovers(run: Path) -> None:
    """Remove what a run that was killed left half done: call it before anything is written."""
    folder = checkpoints_folder(run)
    with writing(folder):
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            whole = entry.with_suffix("")
            if entry.suffix == REPLACED and _STEP.fullmatch(whole.name) and not whole.exists():
                entry.rename(whole)
            elif entry.suffix in {PARTIAL, REPLACED} and _STEP.fullmatch(whole.name):
                shutil.rmtree(entry)


def prune(run: Path, *, keep: int = DEFAULT_KEEP) -> None:
    """Keep the last `keep` checkpoints, and that of step 0; the last one always stays.

    One that goes loses its name first, so that no half of it is ever taken for a whole.
    """
    with writing(checkpoints_folder(run)):
        for step in steps(run)[: -max(1, keep)]:
            if step:
                _remove(checkpoints_folder(run) / step_name(step))


def _remove(folder: Path) -> None:
    aside = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    sync_folder(folder.parent)
    shutil.rmtree(aside)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the disk refuses becomes a CheckpointError that names `path`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"The checkpoint cannot be written to {path} ({error.strerror}): make room there, "
            "then go on with --resume; the last whole checkpoint is kept."
        ) from error


@contextmanager
def _advised(run: Path, step: int) -> Iterator[None]:
    """Ends a refusal by what can be done instead."""
    try:
        yield
    except CheckpointError as error:
        before = [each for each in steps(run) if each < step]
        advice = f"go back to step {before[-1]}" if before else "there is none before it"
        raise CheckpointError(f"{error}: restore it, or {advice}.") from None


def _check_files(folder: Path, manifest: Manifest, progress: Progress) -> None:
    total, done = sum(file.size_bytes for file in manifest.files), 0
    for file in manifest.files:
        digest = hashlib.sha256()
        for chunk in _chunks(folder, file):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total)
        if digest.hexdigest() != file.sha256:
            raise CheckpointError(f"{folder / file.name} is damaged (its hash is another)")


def _chunks(folder: Path, file: UnitFile) -> Iterator[bytes]:
    path, left = folder / file.name, file.size_bytes
    try:
        with path.open("rb", buffering=0) as stream:
            if path.is_symlink() or stream.seek(0, 2) != left:
                raise CheckpointError(f"{path} is damaged (it is not {left} bytes long)")
            stream.seek(0)
            while left:
                chunk = stream.read(min(left, CHUNK_BYTES))
                if not chunk:
                    raise CheckpointError(f"{path} is damaged (it is cut short)")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror})") from None
