"""Sizes as people write them, `6GiB` or `24GB`, and as they read them, `5.6 GiB`."""

from __future__ import annotations

import re

from edgepipe.errors import UsageError

_UNITS = {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([kmgt]i?b)", re.IGNORECASE)


def parse_size(text: str, *, what: str) -> int:
    """The number of bytes that `text` says, at least 1. A unit is required: `6` may mean anything.

    Raises:
        UsageError: it is not a size; `what` says where it was written.
    """
    match = _SIZE.fullmatch(text.strip())
    num_bytes = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if num_bytes < 1:
        raise UsageError(f"{what} wants a size such as 6GiB, 512MiB or 24GB, not '{text[:40]}'.")
    return num_bytes


def human_size(num_bytes: int) -> str:
    """`1536` is "1.5 KiB": one digit after the point, whole bytes below 1 KiB."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    size, power = float(abs(num_bytes)), 0
    while round(size, 1) >= 1024 and power < len(units) - 1:
        size, power = size / 1024, power + 1
    return f"{'-' if num_bytes < 0 else ''}{size:.{min(power, 1)}f} {units[power]}"
