"""`--set section.key=value`: settings of a TOML file that a command overrides.

--set steps=60   --set lora.rank=8   --set plan.split=[10,20]   --set plan.codec=int8
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from edgepipe.coordinator.toml_table import Table
from edgepipe.errors import UsageError

_SETTING = re.compile(r"([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+){0,2})\s*=\s*(.*?)\s*", re.DOTALL)


def override(whole: Table, settings: Sequence[str]) -> Table:
    """The file with these settings in place of its own.

    A value is TOML; one that is not is text, so that a word or a path needs no quotes.

    Raises UsageError where a setting is not one. Whether it makes sense is for the file's reader.
    """
    values = dict(whole.values)
    for setting in settings:
        match = _SETTING.fullmatch(setting)
        if match is None or not match[2]:
            raise UsageError(
                f"--set {setting[:80]!r} sets nothing: write --set section.key=value, "
                "as in --set lora.rank=8"
            )
        values = _with(values, match[1].split("."), _value(setting, match[2]), match[1])
    return replace(whole, values=values)


def _with(values: dict[str, Any], keys: Sequence[str], value: Any, name: str) -> dict[str, Any]:
    """A copy in which the value stands at the keys."""
    key, *inner = keys
    if not inner:
        return {**values, key: value}
    table = values.get(key, {})
    if not isinstance(table, dict):
        raise UsageError(f"--set {name}: {key} is a setting and no table: set it as a whole")
    return {**values, key: _with(table, inner, value, name)}


def _value(setting: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    if list(parsed) == ["value"]:
        return parsed["value"]
    if text[0] in "[{\"'":
        raise UsageError(f"--set {setting[:80]}: the value is not valid TOML: correct it")
    return text
