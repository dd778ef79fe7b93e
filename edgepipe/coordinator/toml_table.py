"""A TOML file as tables: a value is checked as it is taken, and a refusal names its place."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgepipe.errors import UsageError

MAX_FILE_BYTES = 1 << 18
MAX_KEYS_LISTED = 6
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What nodes, pools and media may be called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """One table of a file; `place` is what sentences call it, "" for the file itself."""

    file: Path
    place: str
    values: Mapping[str, Any]

    def wrong(self, what: str) -> UsageError:
        """The refusal: the file, the place in it, and what is wrong there."""
        return UsageError(": ".join(part for part in (str(self.file), self.place, what) if part))

    def check_keys(self, known: Iterable[str]) -> None:
        """Raises UsageError for a key that the table does not have."""
        names = tuple(known)
        for key in self.values:
            if key not in names:
                raise self.wrong(f"unknown key {key[:40]!r}: {_advice(key, names)}")

    def table(self, key: str) -> Table:
        """The table of this name, empty where there is none. Raises UsageError."""
        values = self.values.get(key, {})
        if not isinstance(values, dict):
            raise self.wrong(f"{key} is {kind_of(values)}: write a table, [{key}]")
        return Table(file=self.file, place=key, values=values)

    def tables(self, key: str, *, at_most: int) -> tuple[Table, ...]:
        """The tables of an array, called by their numbers from 1 on. Raises UsageError."""
        array = self.values.get(key, [])
        if not isinstance(array, list) or not all(isinstance(each, dict) for each in array):
            raise self.wrong(f"{key} is not a list of tables: head each one with [[{key}]]")
        if len(array) > at_most:
            raise self.wrong(f"{len(array)} tables [[{key}]]: give at most {at_most}")
        return tuple(
            Table(file=self.file, place=f"{key} {number}", values=values)
            for number, values in enumerate(array, start=1)
        )

    def number(self, key: str, *, low: float, high: float) -> float:
        """A finite number from `low` to `high`. Raises UsageError."""
        return self.checked(key, self._wanted(key), low=low, high=high)

    def checked(self, what: str, value: object, *, low: float, high: float) -> float:
        """The value as such a number; `what` names it. Raises UsageError."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(f"{what} is {kind_of(value)}: write a number")
        if value < 0:
            raise self.wrong(f"{what} is negative: write a number from {low:g} to {high:g}")
        if not low <= value <= high:
            raise self.wrong(f"{what} is {_shown(value)}: write a number from {low:g} to {high:g}")
        return float(value)

    def text(self, key: str, pattern: re.Pattern[str] = NAME, *, wants: str = "a name") -> str:
        """Text that matches the pattern, which `wants` describes. Raises UsageError."""
        value = self._wanted(key)
        if not isinstance(value, str):
            raise self.wrong(f"{key} is {kind_of(value)}: write {wants} in quotes")
        if pattern.fullmatch(value) is None:
            letters = ", of letters, digits, dots, dashes and underscores"
            more = letters if pattern is NAME else ""
            raise self.wrong(f"{key} is {value[:40]!r}: write {wants}{more}")
        return value

    def _wanted(self, key: str) -> object:
        if key not in self.values:
            raise self.wrong(f"{key} is missing: add it")
        return self.values[key]


def read_toml(file: Path, *, wanted: str = "a cluster file") -> Table:
    """The whole file; `wanted` is what it should be.

    Raises UsageError where it cannot be read or is not TOML in UTF-8.
    """
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from None
    return parse_toml(file, data, wanted=wanted)


def parse_toml(file: Path, data: bytes, *, wanted: str) -> Table:
    """The same of a file that was read. Raises UsageError."""
    whole = Table(file=file, place="", values={})
    if len(data) > MAX_FILE_BYTES:
        raise whole.wrong(f"larger than {MAX_FILE_BYTES >> 10} KiB: give {wanted}")
    return Table(file=file, place="", values=_parsed(whole, data, wanted))


def _parsed(whole: Table, data: bytes, wanted: str) -> dict[str, Any]:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise whole.wrong(f"line {line}: not UTF-8 text: save the file as UTF-8") from None
    except RecursionError:
        raise whole.wrong(f"nested too deeply: give {wanted}") from None
    except tomllib.TOMLDecodeError as error:
        raise whole.wrong(f"not valid TOML: {str(error)[:200]}: correct it") from None
    except ValueError:  # int's, for thousands of digits
        raise whole.wrong("a number of thousands of digits: shorten it") from None


def _advice(key: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(key[:40], names, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"it takes {', '.join(names)}" if len(names) <= MAX_KEYS_LISTED else "leave it out"


def kind_of(value: object) -> str:
    """What a value of the wrong type is, in a word or two."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def _shown(value: float) -> str:
    """A number as it may stand in a sentence: a long one only in its kind."""
    return f"{value:g}" if value != value or abs(value) < 1e30 else "huge"  # noqa: PLR0124 -- NaN
