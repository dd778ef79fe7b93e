"""Plain TOML, written by hand: keys, then tables of keys. What stands in a table is inline.

steps = 60

[plan]
split = [10, 20]
codec = {forward = "int8", backward = "none"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def toml_text(values: Mapping[str, Any]) -> str:
    """The document of nested dicts of strings, numbers, booleans and sequences; keys are bare."""
    return "\n".join(_blocks(values)) + "\n"


def _blocks(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if not isinstance(value, Mapping):
            yield f"{key} = {_value(value)}"
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"\n[{key}]"
            yield from (f"{name} = {_value(each)}" for name, each in value.items())


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return _quoted(value)
        case int() | float():
            return repr(value)
        case Mapping():
            inner = ", ".join(f"{key} = {_value(each)}" for key, each in value.items())
            return f"{{{inner}}}"
        case Sequence():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            raise TypeError(f"{type(value).__name__} has no place in this TOML")


def _quoted(text: str) -> str:
    """A basic string: JSON escapes as TOML does, but for DEL."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")
