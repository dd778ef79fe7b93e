"""EDGEPIPE_HOME: where edgepipe keeps things. Whole files appear at once, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def default_home() -> Path:
    """Where edgepipe keeps its things unless told otherwise."""
    return Path(platformdirs.user_data_dir("edgepipe", appauthor=False))


def current_home() -> Path:
    """EDGEPIPE_HOME, else the platform's place."""
    return Path(os.environ.get("EDGEPIPE_HOME") or default_home())


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, so that a reader, or a crash, sees the old or the new whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:32]}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut; Windows cannot open a folder and needs no help."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it becomes `path` unless another one came first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name[:32]}."))
    try:
        yield aside
        try:
            aside.rename(path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
