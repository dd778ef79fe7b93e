"""The unit of a place: the shipped template, with the words between @ filled in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from edgepipe.agent.service.place import Manager, Place
from edgepipe.agent.service.shipped import shipped

SINCE = {"RestartSteps": 254, "RestartMaxDelaySec": 254}
"""Keys that older versions of systemd do not know, and warn of."""
_WORD = re.compile("@([A-Z]+)@")


def unit_text(place: Place, *, python: Path, systemd_version: int | None = None) -> str:
    """What to write to `place.unit`.

    Args:
        place: see Place.
        python: the interpreter of this installation.
        systemd_version: whose keys to use; None for all.
    """
    values = {"PYTHON": str(python), "CONFIG": str(place.config), "HOME": str(place.home)}
    quoted: Callable[[str], str] = escape if place.manager is Manager.LAUNCHD else _systemd_word
    text = _WORD.sub(lambda found: quoted(values[found[1]]), shipped(place.template))
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if _is_known(line, systemd_version))


def _is_known(line: str, version: int | None) -> bool:
    return version is None or SINCE.get(line.partition("=")[0], 0) <= version


def _systemd_word(text: str) -> str:
    """One word of a unit's line, as systemd.syntax(7) has it quoted."""
    plain = text.replace("%", "%%")
    if re.fullmatch(r"[\w./+:=,@%-]+", plain):
        return plain
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'
