"""Writes what an agent's service consists of, and takes it away again."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import edgepipe
from edgepipe.agent.configuration import load_settings
from edgepipe.agent.service.config import Setting, config_text
from edgepipe.agent.service.place import Place, Scope
from edgepipe.agent.service.shipped import shipped
from edgepipe.agent.service.unit import unit_text
from edgepipe.errors import ServiceError
from edgepipe.home import write_atomically

OF_THE_AGENT = ("nodes", "weights", "onnx", "agent.log")
"""Identities, what was loaded, what was built of it, and launchd's log: below a user's home."""
_MODE = 0o644
_ANYWHERE = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file to write."""

    path: Path
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the user asked for. `settings` are those that were given, by their names."""

    profile: str | None
    settings: Mapping[str, Setting]

    @property
    def says_something(self) -> bool:
        """Whether settings that are there already are to be replaced."""
        return self.profile is not None or bool(self.settings)


def files_of(
    place: Place, wanted: Wanted, *, python: Path, systemd_version: int | None, root: Path
) -> Iterator[File]:
    """What to write, below `root`. Settings that are there stay, unless others are asked for.

    Raises:
        UsageError: an unknown profile.
    """
    yield File(
        path=place.unit, text=unit_text(place, python=python, systemd_version=systemd_version)
    )
    if place.accounts is not None:
        yield File(path=place.accounts, text=shipped("edgepipe-sysusers.conf"))
    if wanted.says_something or not below(root, place.config).exists():
        yield File(path=place.config, text=config_text(wanted.profile, wanted.settings))


def below(root: Path, path: Path) -> Path:
    """Where a path is when `root` is taken for `/`."""
    return root / path.relative_to(_ANYWHERE) if root != _ANYWHERE else path


def write(file: File, root: Path) -> Path:
    """Write it, for everyone to read; other text that was there is kept beside it as *.old.

    Raises:
        ServiceError: it cannot be written.
    """
    path = below(root, file.path)
    try:
        if path.exists() and path.read_text(encoding="utf-8") != file.text:
            path.replace(_old(path))
        write_atomically(path, file.text.encode())
        path.chmod(_MODE)
    except OSError as error:
        raise ServiceError(
            f"{path} cannot be written ({error.strerror}): install as somebody who may."
        ) from None
    return path


def check_settings(place: Place, files: Sequence[File], root: Path) -> None:
    """Raise UsageError for settings with which the agent would not start."""
    text = next((file.text for file in files if file.path == place.config), None)
    if text is None:
        load_settings({}, below(root, place.config))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder, place.config.name)
        scratch.write_text(text, encoding="utf-8")
        load_settings({}, scratch)


def check_readable(python: Path) -> None:
    """Raise ServiceError where the system's user could not run this installation."""
    package = Path(edgepipe.__file__)
    for path in (python, python.resolve(), package):
        for part in (path, *path.parents):
            wanted = stat.S_IXOTH if part.is_dir() else stat.S_IROTH
            if not part.stat().st_mode & wanted:
                raise ServiceError(
                    f"The user edgepipe may not read {part}: install edgepipe where everyone may, "
                    "such as a virtual environment in /opt, or use --user."
                )


def remove(place: Place, root: Path, *, purge: bool) -> Iterator[Path]:
    """Take away what was installed; with `purge` also settings, weights and the node's identity.

    Raises:
        ServiceError: it may not be removed.
    """
    files = [place.unit, *([place.accounts] if place.accounts is not None else [])]
    files += [_old(file) for file in files]
    if purge:
        files += [place.config, _old(place.config), *_of_the_agent(place)]
    try:
        for file in files:
            if (path := below(root, file)).exists():
                _remove(path)
                yield path
    except OSError as error:
        raise ServiceError(
            f"{error.filename} cannot be removed ({error.strerror}): uninstall as somebody who may."
        ) from None


def _of_the_agent(place: Place) -> Sequence[Path]:
    """What the agent keeps.

    The home of a user holds what their commands keep too, and whatever else they put there.
    """
    if place.scope is Scope.SYSTEM:
        return (place.home,)
    return tuple(place.home / name for name in OF_THE_AGENT)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _old(path: Path) -> Path:
    return path.with_name(f"{path.name}.old")


def kept(place: Place, root: Path) -> tuple[Path, ...]:
    """What `remove` leaves without `purge`."""
    paths = (below(root, place.config), below(root, place.home))
    return tuple(path for path in paths if path.exists())


def interpreter(executable: str) -> Path:
    """This installation's Python. Links stay: through them it knows its virtual environment."""
    return Path(os.path.abspath(executable))  # noqa: PTH100 -- Path.absolute keeps `..`
