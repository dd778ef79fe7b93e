"""A line of JSONL: `{"text": "…"}` or `{"messages": [{"role": "user", "content": "…"}, …]}`.

Other keys of a line, and of a message, are for other programs.
"""

from __future__ import annotations

import json
from typing import Any

from edgepipe.coordinator.text import Message
from edgepipe.coordinator.train_data.document import Chat, Origin, Role, Text
from edgepipe.core.dataset import DataFormat

_ROLES = ", ".join(Role)


def parse_line(origin: Origin, line: str, expected: DataFormat) -> Text | Chat:
    """What a line holds; `auto` takes `messages` where a line has them, else `text`.

    Raises:
        UsageError: it is not what is expected: the file, the line and what is wrong.
    """
    value = _object(origin, line)
    if expected is DataFormat.AUTO and not value.keys() & {"text", "messages"}:
        raise origin.wrong('it has neither "text" nor "messages": give it one of them.')
    if expected is DataFormat.MESSAGES or (expected is DataFormat.AUTO and "messages" in value):
        return Chat(origin=origin, messages=_messages(origin, value.get("messages")))
    return Text(origin=origin, content=_string(origin, '"text"', value.get("text")))


def is_object(line: str) -> bool:
    """Whether a line is a JSON object, as those of JSONL are."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _object(origin: Origin, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise origin.wrong(
            f"it is not JSON ({_reason(error)}): write one whole JSON object on each line."
        ) from error
    if not isinstance(value, dict):
        raise origin.wrong(f"it is {_kind(value)}: write one JSON object on each line.")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg.removesuffix(' at')}, column {error.colno}"
    return "too deep, or a number too long"


def _messages(origin: Origin, value: Any) -> tuple[Message, ...]:
    if value is None:
        raise origin.wrong('it has no "messages": add them, or set another format.')
    if not isinstance(value, list) or not value:
        raise origin.wrong('its "messages" are not a list of one or more: write [{…}, {…}].')
    return tuple(_message(origin, number, each) for number, each in enumerate(value, start=1))


def _message(origin: Origin, number: int, value: Any) -> Message:
    if not isinstance(value, dict):
        raise origin.wrong(f"message {number} is {_kind(value)}: write an object.")
    role = value.get("role")
    if role not in list(Role):
        shown = json.dumps(role, ensure_ascii=False)[:40]
        raise origin.wrong(f"message {number} has the role {shown}: use one of {_ROLES}.")
    content = _string(origin, f"the content of message {number}", value.get("content"))
    return {"role": role, "content": content}


def _string(origin: Origin, what: str, value: Any) -> str:
    """A text with something in it that a tokenizer can take: half a surrogate pair it cannot."""
    if value is None:
        raise origin.wrong(f"{what} is missing: add it, or remove the line.")
    if not isinstance(value, str):
        raise origin.wrong(f"{what} is {_kind(value)}: write a string.")
    if not value.strip():
        raise origin.wrong(f"{what} is empty: fill it in, or remove the line.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise origin.wrong(f"{what} holds half a surrogate pair: write the character.") from error
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
