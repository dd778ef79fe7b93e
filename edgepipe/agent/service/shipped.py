"""The files that edgepipe ships for a machine's service manager: the folder `agents`."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from edgepipe.errors import UsageError

_PROFILES = "profiles"


def shipped(name: str) -> str:
    """The text of a file of `agents`: in the wheel a part of the package, else in the checkout."""
    return _folder().joinpath(name).read_text(encoding="utf-8")


def profiles() -> tuple[str, ...]:
    """The names of the hardware profiles."""
    found = _folder().joinpath(_PROFILES).iterdir()
    return tuple(sorted(Path(each.name).stem for each in found))


def profile(name: str) -> str:
    """The settings of a hardware profile. Raises UsageError where there is none of that name."""
    if name not in profiles():
        raise UsageError(f"There is no profile '{name}': take {', '.join(profiles())}.")
    return shipped(f"{_PROFILES}/{name}.toml")


def _folder() -> Traversable:
    package = files("edgepipe")
    inside = package.joinpath("agents")
    return inside if inside.is_dir() else Path(str(package)).parent / "agents"
