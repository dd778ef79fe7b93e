"""Sets of free devices, and where a pipeline may have them left.

A stage holds only so many layers, so that few devices are free late in a pipeline, and many early.
In the order of how many layers their devices hold, the sets that matter at a place are neighbours:

    layers of the free ones    0 1 1 2 2 3 3 … 9
    a stage ends at layer b          |·····|        at least L - b, or the rest has no room;
                                                    all others together at least b
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.problem import Bools, Ints


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sets:
    """All sets of the `tracked` devices, as axis A of tables; the last one is that of all.

    `having` [T, A] are those with a device, `without` [T, A] the places of the same ones without
    it, or with it where they lack it. `place` [A] is that of a set as bits in the order of
    `tracked`. `ended` [L] are those that may be free where a stage has ended at a place, `begun`
    [L][D] those where a device begins one.
    """

    tracked: tuple[int, ...]
    having: Bools
    without: Ints
    place: Ints
    ended: tuple[slice, ...]
    begun: tuple[tuple[slice, ...], ...]

    @classmethod
    def of(cls, stages: Bools, tracked: tuple[int, ...], untracked: tuple[int, ...]) -> Sets:
        """The sets for these stages [D, L, L]; only the first device may be of neither."""
        spans = np.arange(stages.shape[2]) - np.arange(stages.shape[1])[:, None]
        layers = np.where(stages, spans, 0).max(axis=(1, 2))
        bits = np.arange(1 << len(tracked))
        having = bits >> np.arange(len(tracked))[:, None] & 1 == 1
        held = layers[list(tracked)] @ having
        order = np.lexsort((bits, held))
        place = np.empty_like(order)
        place[order] = bits
        having = having[:, order]
        flipped = order ^ (1 << np.arange(len(tracked)))[:, None]
        held, left = held[order], np.arange(stages.shape[1])[::-1]
        most = int(layers.sum()) - len(left) + 1
        begun = [_between(held, left - own, most, everywhere=bool(untracked)) for own in layers]
        return cls(
            tracked=tracked,
            having=having,
            without=place[flipped],
            place=place,
            ended=_between(held, left, most, everywhere=bool(untracked)),
            begun=tuple(zip(*begun, strict=True)),
        )

    def at(self, free: Ints) -> Ints:
        """Places on axis A of the tracked ones of these devices, as bits by device."""
        bits = np.zeros_like(free)
        for place, device in enumerate(self.tracked):
            bits |= (free >> device & 1) << place
        return self.place[bits]


def _between(held: Ints, least: Ints, more: int, *, everywhere: bool) -> tuple[slice, ...]:
    """The sets that hold at least so many layers [L], and no more than so many more.

    All of them where devices may follow that no set keeps track of.
    """
    if everywhere:
        return (slice(0, len(held)),) * len(least)
    first, end = np.searchsorted(held, [least, np.maximum(least, least + more + 1)])
    return tuple(map(slice, first.tolist(), end.tolist()))
