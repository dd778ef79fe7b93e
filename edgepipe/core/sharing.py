"""How frames that travel at once share what they occupy: as TCP connections do.

    ══ a ══▶ host 1 ══ b ══▶ host 2 ◀══ c ══        all NICs alike:
    ◀══ d ══        ◀══ e ══        ══ f ══▶        a c d f  2/3 as fast as alone, b e  1/3

A resource is crowded where the frames under way, all as fast as they go alone, want more of it than
there is. Their rates grow from 0 together, and those of frames that pass n crowded resources 1/n as
fast, until one goes as fast as alone, or a resource is used up: then its frames keep their rates,
and the others' grow on.

So connections that only one resource holds back get equal bytes of it, and one that waits in
several queues less of each: their delays add up to its round trip, and TCP gives shares in inverse
proportion to that. Where all crowded resources are alike, this is proportional fairness (Kelly,
Maulloo, Tan: Rate control for communication networks, 1998).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from edgepipe.core.hop import Hop

_ROUNDING = 1e-9


def crowded(hops: Sequence[Hop]) -> frozenset[str]:
    """The resources that one frame over each of these, all at once, would overload."""
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
    # To itself, a frame is a resource that nothing else uses.
    needs: list[dict[str | int, float]] = [{index: 1.0} for index in range(len(hops))]
    for need, hop in zip(needs, hops, strict=True):
        need.update({name: share for name, share in hop.shares.items() if name in tight})
    gains = [
        hop.seconds / hop.num_bytes / max(1, len(need) - 1)
        for hop, need in zip(hops, needs, strict=True)
    ]
    left = defaultdict[str | int, float](lambda: 1.0)
    found, growing = [0.0] * len(hops), set(range(len(hops)))
    while growing:
        drawn = defaultdict[str | int, float](float)
        for index in growing:
            for name, share in needs[index].items():
                drawn[name] += gains[index] * share
        levels = {name: left[name] / each for name, each in drawn.items()}
        used_up = min(levels, key=levels.__getitem__)
        for index in [index for index in growing if used_up in needs[index]]:
            found[index] = gains[index] * levels[used_up]
            growing.remove(index)
            for name, share in needs[index].items():
                left[name] -= found[index] * share
    return found
