"""Frames on their way between stages, as one event after another.

Frames from one stage to another queue, first come, first served, as on one connection. The first
ones of all queues are under way at once and share what they need (edgepipe.core.sharing): how fast
each goes changes whenever a queue becomes empty, or is no longer. A frame that passes nothing that
could ever be crowded goes as fast as alone, and its end is known when it is sent.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Generic, TypeVar

from edgepipe.core.hop import Hop
from edgepipe.core.sharing import crowded, speeds

Way = tuple[int, int]
"""The stages that send and receive."""

LetterT = TypeVar("LetterT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Generic[LetterT]):
    """What was sent, when it was the first of its queue, and when it had left."""

    letter: LetterT
    begin_s: float
    end_s: float


@dataclass(slots=True, kw_only=True)
class _Travel(Generic[LetterT]):
    """A frame under way: at `since_s` it had `left_s` to go at full speed."""

    letter: LetterT
    begin_s: float
    since_s: float
    left_s: float
    speed: float = 1.0

    @property
    def end_s(self) -> float:
        return self.since_s + self.left_s / self.speed

    def change(self, speed: float, now_s: float) -> None:
        self.left_s = max(0.0, self.left_s - (now_s - self.since_s) * self.speed)
        self.since_s, self.speed = now_s, speed


class Network(Generic[LetterT]):
    """Hops between stages, on which frames are sent in the order of time.

    `next_s` is when the next of the frames that share has left, infinite without one.
    """

    def __init__(self, hops: Mapping[Way, Hop]) -> None:
        self._hops = hops
        tight = crowded(list(hops.values()))
        self._shares = {way: not tight.isdisjoint(hop.shares) for way, hop in hops.items()}
        self._free_s = defaultdict[Way, float](float)
        self._waiting = defaultdict[Way, deque[LetterT]](deque)
        self._travels: dict[Way, _Travel[LetterT]] = {}
        self._speeds: dict[frozenset[Way], Mapping[Way, float]] = {}
        self._next: Way | None = None
        self.next_s = inf

    def send(self, way: Way, letter: LetterT, now_s: float) -> Sent[LetterT] | None:
        """Send a frame; None where it is not known yet when it will have left."""
        if not self._shares[way]:
            begin_s = max(now_s, self._free_s[way])
            self._free_s[way] = begin_s + self._hops[way].seconds
            return Sent(letter=letter, begin_s=begin_s, end_s=self._free_s[way])
        if way in self._travels:
            self._waiting[way].append(letter)
            return None
        self._begin(way, letter, now_s)
        self._share(now_s)
        return None

    def pop(self) -> Sent[LetterT]:
        """What has left at `next_s`."""
        assert self._next is not None
        way, now_s = self._next, self.next_s
        travel = self._travels.pop(way)
        if self._waiting[way]:
            self._begin(way, self._waiting[way].popleft(), now_s)
        self._share(now_s)
        return Sent(letter=travel.letter, begin_s=travel.begin_s, end_s=now_s)

    def _begin(self, way: Way, letter: LetterT, now_s: float) -> None:
        left_s = self._hops[way].seconds
        self._travels[way] = _Travel(letter=letter, begin_s=now_s, since_s=now_s, left_s=left_s)

    def _share(self, now_s: float) -> None:
        """Give all that are under way the speed that they have beside the others."""
        for way, speed in self._speeds_of(frozenset(self._travels)).items():
            travel = self._travels[way]
            if travel.speed != speed:
                travel.change(speed, now_s)
        ends = ((travel.end_s, way) for way, travel in self._travels.items())
        end_s, self._next = min(ends, default=(inf, None))
        self.next_s = max(now_s, end_s)

    def _speeds_of(self, under_way: frozenset[Way]) -> Mapping[Way, float]:
        if under_way not in self._speeds:
            ways = sorted(under_way)
            found = speeds([self._hops[way] for way in ways])
            self._speeds[under_way] = dict(zip(ways, found, strict=True))
        return self._speeds[under_way]
