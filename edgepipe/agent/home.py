"""What an agent keeps under EDGEPIPE_HOME to be known by.

    <home>/nodes/<name>/id       who this node is, random, for ever
                       /fence    the highest fence it ever granted
                       /lock     held while an agent of that name runs

Several agents may share a home under different names. Every write is an atomic rename.
"""

from __future__ import annotations

import re
import secrets
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from edgepipe.core.profile import NodeId
from edgepipe.errors import NodeError, UsageError
from edgepipe.home import write_atomically

_ID = re.compile(r"[0-9a-f]{16}")
_FENCE = re.compile(r"[0-9]{1,18}")
_MAX_FILE_BYTES = 64


class Identity:
    """A node's id and its fence counter, held by one agent at a time until `close`."""

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self._folder = folder
        self._lock = lock
        self.id = NodeId(_read_or_create(folder / "id", _ID, secrets.token_hex(8)))
        self.last_fence = int(_read_or_create(folder / "fence", _FENCE, "0"))

    def save_fence(self, fence: int) -> None:
        """Persist `fence`, before the grant that carries it is answered.

        Raises:
            ValueError: `fence` does not rise.
        """
        if fence <= self.last_fence:
            raise ValueError(f"fence {fence} does not rise above {self.last_fence}")
        write_atomically(self._folder / "fence", str(fence).encode())
        self.last_fence = fence

    def close(self) -> None:
        """Let another agent take the name."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class EphemeralIdentity:
    """The identity of a private agent: nothing of it outlives the process."""

    def __init__(self) -> None:
        self.id = NodeId(secrets.token_hex(8))
        self.last_fence = 0

    def save_fence(self, fence: int) -> None:
        """Remember it for as long as the process lives."""
        self.last_fence = fence

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def open_identity(home: Path, name: str) -> Identity:
    """The identity of the agent `name` in `home`, made at the first call and held exclusively.

    Raises:
        UsageError: an agent of that name is running in this home, or the home is not writable.
        NodeError: its files are damaged.
    """
    folder = home / "nodes" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "lock", timeout=0, thread_local=False)
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"An agent named '{name}' is already running in {home}: stop it, or give this one "
            "another --name."
        ) from None
    except OSError as error:
        raise UsageError(
            f"{home} cannot be written ({error.strerror}): set EDGEPIPE_HOME to a folder that can."
        ) from None
    try:
        return Identity(folder, lock)
    except BaseException:
        lock.release()
        raise


def _read_or_create(path: Path, pattern: re.Pattern[str], new: str) -> str:
    with suppress(FileNotFoundError), path.open("rb") as file:
        text = file.read(_MAX_FILE_BYTES).decode(errors="replace").strip()
        if pattern.fullmatch(text):
            return text
        raise NodeError(
            f"{path} is damaged: delete the folder {path.parent} and start the agent again, "
            "which makes it a new node."
        )
    write_atomically(path, new.encode())
    return new
