"""Emulates a slower device: what it computes takes so many times as long."""

from __future__ import annotations

import time


def stretch(begin_s: float, slowdown: float) -> None:
    """Sleep for the rest of what was begun at `begin_s` (perf_counter) and is done now."""
    if slowdown > 1:
        time.sleep((time.perf_counter() - begin_s) * (slowdown - 1))
