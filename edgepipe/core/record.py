"""Frozen dataclasses to JSON values and back.

A record is a dataclass of ints, floats, booleans, strings, StrEnums, records, homogeneous tuples,
dicts with string keys, and optional ones of these. Unknown keys are ignored, so that a newer
writer may add fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def to_json(value: Any) -> Any:
    """The JSON value of a record, a tuple of records, or a plain value."""
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[Record], data: Any, where: str = "") -> Record:
    """The record that `data` describes; `where` is the path to it, for the error's sentence.

    Raises ValueError that names the first field which is missing or of another type.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{where or 'the document'} is not an object")  # noqa: TRY004
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _value(hints[field.name], data[field.name], f"{where}.{field.name}")
            for field in fields(kind)  # type: ignore[arg-type]
            if _present(field, data, where)
        }
    )


def _present(field: Field[Any], data: Mapping[str, Any], where: str) -> bool:
    if field.name in data:
        return True
    if field.default is MISSING and field.default_factory is MISSING:
        raise ValueError(f"{where}.{field.name} is missing")
    return False


def _value(hint: Any, data: Any, where: str) -> Any:
    if isinstance(hint, UnionType):
        (some,) = (kind for kind in get_args(hint) if kind is not type(None))
        return None if data is None else _value(some, data, where)
    if get_origin(hint) is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where} is not a list")
        return tuple(
            _value(get_args(hint)[0], item, f"{where}[{i}]") for i, item in enumerate(data)
        )
    if get_origin(hint) is dict:
        if not isinstance(data, dict):
            raise ValueError(f"{where} is not an object")
        kind = get_args(hint)[1]
        return {key: _value(kind, item, f"{where}.{key}") for key, item in data.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, data, where)
    return _scalar(hint, data, where)


def _scalar(hint: Any, data: Any, where: str) -> Any:
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if data not in list(hint):
            raise ValueError(f"{where} is not one of {', '.join(hint)}")
        return hint(data)
    if hint is float and type(data) is int:
        return _float(data, where)
    if type(data) is not hint:
        raise ValueError(f"{where} is not of type {hint.__name__}")
    return data


def _float(data: int, where: str) -> float:
    try:
        return float(data)
    except OverflowError:
        raise ValueError(f"{where} is too large") from None
