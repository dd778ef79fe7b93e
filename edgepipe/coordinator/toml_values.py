"""Settings of a TOML table: each key has a reader, which refuses what it cannot be.

A key that is not written down is left to the dataclass that the settings are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

from edgepipe.coordinator.toml_table import Table, kind_of

AUTO = "auto"
"""What stands for None: edgepipe chooses."""
MAX_ITEMS = 1024
PLAIN = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,1024}")
"""Text of one line."""

Read = Callable[[Table, str], Any]
"""The value of a key that is there. Raises UsageError."""


def given(table: Table, readers: Mapping[str, Read]) -> dict[str, Any]:
    """The settings that are written down. Raises UsageError, for an unknown key too."""
    table.check_keys(readers)
    return {key: read(table, key) for key, read in readers.items() if key in table.values}


def number(low: float, high: float) -> Read:
    """Reads a finite number."""
    return lambda table, key: table.number(key, low=low, high=high)


def integer(low: int, high: int, *, auto: bool = False) -> Read:
    """Reads a whole number; with `auto`, "auto" is None."""
    wanted = f"a whole number from {low} to {high}" + (f', or "{AUTO}"' if auto else "")

    def read(table: Table, key: str) -> int | None:
        value = table.values[key]
        if auto and value == AUTO:
            return None
        if isinstance(value, float):
            raise table.wrong(f"{key} is {value:g}: write {wanted}")
        return _whole(table, key, value, low=low, high=high, wanted=wanted)

    return read


def integers(low: int, high: int) -> Read:
    """Reads a list of whole numbers, which may be empty."""
    wanted = f"whole numbers from {low} to {high}"

    def read(table: Table, key: str) -> tuple[int, ...]:
        return tuple(
            _whole(table, f"{key}[{at}]", value, low=low, high=high, wanted=wanted)
            for at, value in enumerate(_list(table, key, wanted))
        )

    return read


def flag(table: Table, key: str) -> bool:
    """True or false."""
    value = table.values[key]
    if not isinstance(value, bool):
        raise table.wrong(f"{key} is {kind_of(value)}: write true or false")
    return value


def flag_or_auto(table: Table, key: str) -> bool | None:
    """True, false, or None for "auto"."""
    value = table.values[key]
    if value == AUTO:
        return None
    if not isinstance(value, bool):
        raise table.wrong(f'{key} is {kind_of(value)}: write true, false or "{AUTO}"')
    return value


def choice(choices: Iterable[StrEnum], *, auto: bool = False) -> Read:
    """Reads one of a closed set; with `auto`, "auto" is None."""
    known = {each.value: each for each in choices}

    def read(table: Table, key: str) -> StrEnum | None:
        value = table.values[key]
        if auto and value == AUTO:
            return None
        if not isinstance(value, str) or value not in known:
            raise table.wrong(f"{key} is {_named(value)}: write {_either(known, auto=auto)}")
        return known[value]

    return read


def text(wants: str, pattern: re.Pattern[str] = PLAIN) -> Read:
    """Reads text that matches the pattern, which `wants` describes."""
    return lambda table, key: table.text(key, pattern, wants=wants)


def texts(one: str, many: str, pattern: re.Pattern[str] = PLAIN) -> Read:
    """Reads a list of at least one such text, each there once; `one` and `many` describe them."""

    def read(table: Table, key: str) -> tuple[str, ...]:
        values = _list(table, key, many)
        for at, value in enumerate(values):
            if not isinstance(value, str) or pattern.fullmatch(value) is None:
                raise table.wrong(f"{key}[{at}] is {_named(value)}: write {one}")
            if value in values[:at]:
                raise table.wrong(f"{key} names {value[:40]!r} twice: name it once")
        if not values:
            raise table.wrong(f"{key} is an empty list: write at least {one}")
        return tuple(values)

    return read


def path(table: Table, key: str) -> Path:
    """A path, from the folder of the file on; `~` is the user's home."""
    return located(table, key, table.text(key, PLAIN, wants="a path"))


def paths(table: Table, key: str) -> tuple[Path, ...]:
    """One path, or a list of them."""
    if isinstance(table.values[key], str):
        return (path(table, key),)
    written = texts("one path", "paths, or one path")(table, key)
    return tuple(located(table, key, each) for each in written)


def located(table: Table, key: str, written: str) -> Path:
    """Where a path leads that is written in the table's file. Raises UsageError."""
    try:
        found = (table.file.parent / Path(written).expanduser()).resolve()
        str(found).encode()
    except (OSError, RuntimeError, UnicodeEncodeError):
        raise table.wrong(f"{key} is {written[:40]!r}, which leads nowhere: correct it") from None
    return found


def _list(table: Table, key: str, wanted: str) -> list[Any]:
    value = table.values[key]
    if not isinstance(value, list):
        raise table.wrong(f"{key} is {_named(value)}: write a list of {wanted}")
    if len(value) > MAX_ITEMS:
        raise table.wrong(f"{key} has {len(value)} items: list at most {MAX_ITEMS}")
    return value


def _whole(table: Table, what: str, value: object, *, low: int, high: int, wanted: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise table.wrong(f"{what} is {_named(value)}: write {wanted}")
    if not low <= value <= high:
        shown = f"{value}" if abs(value) < 10**18 else "huge"
        raise table.wrong(f"{what} is {shown}: write {wanted}")
    return value


def _named(value: object) -> str:
    """Text as it is, anything else by its kind."""
    return repr(value[:40]) if isinstance(value, str) else kind_of(value)


def _either(known: Iterable[str], *, auto: bool) -> str:
    *others, last = [AUTO, *known] if auto else known
    return f"{', '.join(others)} or {last}"
