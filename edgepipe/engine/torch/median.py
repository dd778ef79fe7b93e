"""Repeating measurements until their medians are worth something."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

MIN_REPEATS = 3
MAX_REPEATS = 9
ENOUGH_S = 0.2
SLOW_ENOUGH_S = 0.5
LONG_S = 1.0
"""A call of this length is measured once: nothing that warms up matters in it."""


def medians_s(
    calls: Sequence[Callable[[], float]], on_call: Callable[[], None] = lambda: None
) -> list[float]:
    """The median seconds of each call, which gives its own; all take turns.

    So what disturbs the machine for a moment falls on one repeat of each, and not on all of one.
    Each has a first one to warm up. `on_call` is called `len(calls) * (MAX_REPEATS + 1)` times.
    """
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(MAX_REPEATS + 1):
        for index, call in enumerate(calls):
            if not _is_enough(found[index]):
                found[index].append(call())
            on_call()
    return [statistics.median(_warm(each)) for each in found]


def _is_enough(found: Sequence[float]) -> bool:
    if found and found[0] >= LONG_S:
        return True
    warm = found[1:]
    return sum(warm) >= (ENOUGH_S if len(warm) >= MIN_REPEATS else SLOW_ENOUGH_S)


def _warm(found: Sequence[float]) -> Sequence[float]:
    return found[1:] or found


def median_s(call: Callable[[], float], on_call: Callable[[], None] = lambda: None) -> float:
    """The median seconds of one call."""
    return medians_s([call], on_call)[0]
