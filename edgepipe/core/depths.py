"""How many microbatches each stage of 1f1b-k holds: enough to hide the hops, and no more.

    K of the last stage   1
    K of stage i          K of stage i + 1, and 1, and one for each period that the hop to it and
                          back takes, begun ones included; at most what the period allows

A stage runs its K forwards before its first backward. One more than hides the round trip delays
that backward, and all that wait for it: with four stages of 60 ms, 16 microbatches and hops of
33 ms a step takes 1.24 s with K = 7 5 3 1, and 1.40 s with 7 5 4 2, which the period allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil

from edgepipe.core.schedule import usable_depths

Depths = tuple[int, ...]
_ROUNDING = 1e-9


def steady_depths(
    most: Sequence[int], hop_s: Sequence[float], period_s: float, num_microbatches: int
) -> Depths:
    """The depths of stages that may hold `most`; `hop_s` are there and back, between the stages."""
    depths = [1]
    for cap, hop in zip(reversed(most[:-1]), reversed(hop_s), strict=True):
        periods = ceil(hop / period_s - _ROUNDING) if period_s else 0
        depths.append(min(cap, depths[-1] + 1 + periods))
    return usable_depths(depths[::-1], num_microbatches)


def nearby(depths: Depths, most: Sequence[int], num_microbatches: int) -> list[Depths]:
    """The same with one stage holding one more, or one less."""
    changed = (
        (*depths[:at], depths[at] + by, *depths[at + 1 :])
        for at in range(len(depths))
        for by in (-1, 1)
        if 1 <= depths[at] + by <= most[at]
    )
    found = (usable_depths(each, num_microbatches) for each in changed)
    return [each for each in dict.fromkeys(found) if each != depths]


def best_depths(
    depths: Depths, most: Sequence[int], num_microbatches: int, seconds: Callable[[Depths], float]
) -> Depths:
    """From some depths to such that none nearby are faster; of equally fast ones the first."""
    best_s = seconds(depths)
    while True:
        tried = {each: seconds(each) for each in nearby(depths, most, num_microbatches)}
        least = min(tried, key=tried.__getitem__, default=depths)
        if tried.get(least, best_s) >= best_s * (1 - _ROUNDING):
            return depths
        depths, best_s = least, tried[least]
