"""Limits of what arrives: each check returns what it was given, or raises WireError."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from edgepipe.core.profile import DeviceKind
from edgepipe.errors import WireError

MAX_SPANS = 1 << 12
MAX_LIKELY = 32
MAX_DIMENSIONS = 8
MAX_DIMENSION = 1 << 31
MAX_TEXT_CHARS = 256
MAX_ADDRESSES = 64
MAX_DEVICES = 64
MAX_PORT = 65535

V = TypeVar("V")


def member(members: dict[int, V], number: int, what: str) -> V:
    """A value of a closed set by its number."""
    try:
        return members[number]
    except KeyError:
        raise WireError(f"{what} {number} is not one that this version knows") from None


def kind(text: str) -> DeviceKind:
    """A kind of device by its name."""
    try:
        return DeviceKind(text)
    except ValueError:
        raise WireError(f"a device is of the unknown kind {text[:MAX_TEXT_CHARS]!r}") from None


def shape(dimensions: Sequence[int]) -> tuple[int, ...]:
    """A shape of few dimensions."""
    shape = tuple(dimensions)
    if shape and (len(shape) > MAX_DIMENSIONS or max(shape) >= MAX_DIMENSION):
        raise WireError(f"a frame has more than {MAX_DIMENSIONS} dimensions, or one too large")
    return shape


def text(text: str) -> str:
    """A short name that can be printed."""
    if len(text) > MAX_TEXT_CHARS:
        raise WireError(f"a name of {len(text)} characters arrived, {MAX_TEXT_CHARS} are allowed")
    if not text.isprintable():
        raise WireError(f"the name {text!r} holds characters that cannot be printed")
    return text


def few(items: Sequence[V], limit: int, what: str) -> Sequence[V]:
    """No more items than `limit`."""
    if len(items) > limit:
        raise WireError(f"{len(items)} {what} arrived, {limit} are allowed")
    return items


def port(port: int) -> int:
    """A port number."""
    if port > MAX_PORT:
        raise WireError(f"port {port} arrived, the largest is {MAX_PORT}")
    return port


def finite(value: float) -> float:
    """A number that is one."""
    if not math.isfinite(value):
        raise WireError(f"the number {value} arrived where a finite one is wanted")
    return value
