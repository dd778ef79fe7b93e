"""A growing file of JSON objects, one a line, whose `step` never falls: metrics, or a journal.

A line that was cut off, by a crash or a full disk, is never read and never built upon.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepipe.errors import RunFolderError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonLines:
    """The file; with `synced`, a line is on the disk before `append` returns.

    All methods block on the disk, and raise RunFolderError where it cannot be read or written.
    """

    path: Path
    synced: bool = False

    def append(self, values: Mapping[str, Any]) -> None:
        """Add a line, or, where that fails, leave the file as it was. NaN and infinity are null."""
        line = json.dumps(plain(values), allow_nan=False) + "\n"
        with writing(self.path), self.path.open("ab", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                _write_all(file, line.encode())
                if self.synced:
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(end)
                raise

    def read(self) -> tuple[dict[str, Any], ...]:
        """All lines, up to one that is damaged."""
        return tuple(values for _, values in self._lines())

    def cut_back(self, step: int) -> None:
        """Forget what was written after a step, and what follows a line that is damaged."""
        end = 0
        for size_bytes, values in self._lines():
            if values["step"] > step:
                break
            end += size_bytes
        with writing(self.path):
            os.truncate(self.path, end)

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each line's size and content."""
        with writing(self.path, what="read"), self.path.open("rb") as file:
            for line in file:
                values = _parsed(line)
                if values is None:
                    return
                yield len(line), values


@contextmanager
def writing(path: Path, *, what: str = "written") -> Iterator[None]:
    """Turn what the disk says into a RunFolderError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunFolderError(
                f"{path} cannot be {what}: the disk is full: make room, and go on with --resume"
            ) from None
        raise RunFolderError(
            f"{path} cannot be {what}: {error.strerror or error}: correct that, or choose another "
            "output"
        ) from None


def _write_all(file: io.FileIO, data: bytes) -> None:
    """A write to a disk that is nearly full may take a part only."""
    while data:
        data = data[file.write(data) or 0 :]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """None where the line is not whole."""
    if not line.endswith(b"\n"):
        return None
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_line = isinstance(values, dict) and type(values.get("step")) is int
    return values if is_line else None


def plain(value: Any) -> Any:
    """The value, with what JSON has no number for as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
