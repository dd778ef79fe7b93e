"""How frames that travel at once share what they occupy: as TCP connections do.

    ══ a ══▶ host 1 ══ b ══▶ host 2 ◀══ c ══        all NICs alike:
    ◀══ d ══        ◀══ e ══        ══ f ══▶        a c d f  2/3 as fast as alone, b e  1/3

The rates of all frames grow from 0 together, until one is as fast as alone, or a resource is used
up: then its frames keep their rates, and the others' grow on. A frame that passes n resources which
are used up in the end grows 1/n as fast as one that passes one.

So connections that one resource alone holds back get equal bytes of it, and one that waits in
several queues less of each: their delays add up to its round trip, and TCP's shares are in inverse
proportion to that. On the chain above these are the proportionally fair rates (Kelly, Maulloo, Tan:
Rate control for communication networks, 1998), which take more than sums to find.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from edgepipe.core.hop import Hop

_ROUNDING = 1e-9

Needs = Sequence[dict[str, float]]
"""Of every frame, the shares that it takes, at full speed, of what could be used up."""


def crowded(hops: Iterable[Hop]) -> frozenset[str]:
    """The resources that one frame over each of these, all at full speed, would overload."""
    wanted = defaultdict[str, float](float)
    for hop in hops:
        for name, share in hop.shares.items():
            wanted[name] += share
    return frozenset(name for name, share in wanted.items() if share > 1 + _ROUNDING)


def speeds(hops: Sequence[Hop]) -> list[float]:
    """The speed of a frame over each of these, all under way at once; 1 is as fast as alone.

    No hop takes no time.
    """
    tight = crowded(hops)
    needs = [{name: share for name, share in hop.shares.items() if name in tight} for hop in hops]
    # Rates are of bytes: what a byte per second more means to a frame's speed.
    per_rate = [hop.seconds / hop.num_bytes for hop in hops]
    while True:
        weights = [1 / max(1, len(tight & need.keys())) for need in needs]
        gains = [each * weight for each, weight in zip(per_rate, weights, strict=True)]
        found = _filled(needs, gains)
        used = _used(needs, found)
        queues = frozenset(name for name in tight if used[name] > 1 - _ROUNDING)
        if queues == tight:
            return found
        tight = queues


def _filled(needs: Needs, gains: Sequence[float]) -> list[float]:
    """Speeds that grow in proportion to the gains until nothing has room for more."""
    left = defaultdict[str, float](lambda: 1.0)
    found, growing = [1.0] * len(needs), set(range(len(needs)))
    while growing:
        drawn = defaultdict[str, float](float)
        for index in growing:
            for name, share in needs[index].items():
                drawn[name] += gains[index] * share
        levels = {name: left[name] / each for name, each in drawn.items()}
        scarce = min(levels, key=levels.__getitem__, default=None)
        fastest = max(growing, key=gains.__getitem__)
        if scarce is None or levels[scarce] * gains[fastest] >= 1:
            done = [fastest]
        else:
            done = [index for index in growing if scarce in needs[index]]
            for index in done:
                found[index] = gains[index] * levels[scarce]
        growing.difference_update(done)
        for index in done:
            for name, share in needs[index].items():
                left[name] -= found[index] * share
    return found


def _used(needs: Needs, found: Sequence[float]) -> defaultdict[str, float]:
    used = defaultdict[str, float](float)
    for need, speed in zip(needs, found, strict=True):
        for name, share in need.items():
            used[name] += speed * share
    return used
