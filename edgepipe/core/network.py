"""Frames on their way between stages, as one event after another.

Frames from one stage to another queue, first come, first served, as on one connection. The first
ones of all connections are under way at once and share what they need (edgepipe.core.sharing): how
fast one goes changes whenever a connection that it shares something with falls idle, or is no
longer. A frame that passes nothing that could ever be crowded goes as fast as alone, and its end is
known when it is sent.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

from edgepipe.core.hop import Hop
from edgepipe.core.sharing import crowded, speeds

Connection = tuple[int, int]
"""The stages that send and receive."""

FrameT = TypeVar("FrameT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent(Generic[FrameT]):
    """What was sent, when it was the first of its queue, and when it had left."""

    frame: FrameT
    begin_s: float
    end_s: float


@dataclass(slots=True, kw_only=True)
class _Flow(Generic[FrameT]):
    """A frame under way: at `since_s` it had `left_s` to go at full speed."""

    frame: FrameT
    begin_s: float
    since_s: float
    left_s: float
    speed: float

    @property
    def end_s(self) -> float:
        return self.since_s + self.left_s / self.speed

    def change(self, speed: float, now_s: float) -> None:
        self.left_s = max(0.0, self.left_s - (now_s - self.since_s) * self.speed)
        self.since_s, self.speed = now_s, speed


class Network(Generic[FrameT]):
    """Connections, each over one hop, on which frames are sent in the order of time."""

    def __init__(self, hops: Mapping[Connection, Hop]) -> None:
        self._hops = hops
        self._rivals = _rivals(hops)
        self._free_s = defaultdict[Connection, float](float)
        self._waiting = defaultdict[Connection, deque[FrameT]](deque)
        self._flows: dict[Connection, _Flow[FrameT]] = {}
        self._speeds: dict[frozenset[Connection], Mapping[Connection, float]] = {}
        self._ends: list[tuple[float, Connection]] = []

    @property
    def next_s(self) -> float:
        """When the next of the frames that share has left; infinite without one."""
        while self._ends:
            end_s, connection = self._ends[0]
            flow = self._flows.get(connection)
            if flow is not None and flow.end_s == end_s:
                return end_s
            heappop(self._ends)  # it has become faster or slower since
        return inf

    def send(self, connection: Connection, frame: FrameT, now_s: float) -> Sent[FrameT] | None:
        """Send a frame; None where it is not known yet when it will have left."""
        if not self._rivals[connection]:
            begin_s = max(now_s, self._free_s[connection])
            self._free_s[connection] = begin_s + self._hops[connection].seconds
            return Sent(frame=frame, begin_s=begin_s, end_s=self._free_s[connection])
        if connection in self._flows:
            self._waiting[connection].append(frame)
        else:
            self._begin(connection, frame, now_s, speed=1.0)
            self._share([connection], now_s)
        return None

    def pop(self) -> Sent[FrameT]:
        """What has left at `next_s`, where that is finite."""
        now_s = self.next_s
        _, connection = heappop(self._ends)
        flow = self._flows.pop(connection)
        if self._waiting[connection]:
            frame = self._waiting[connection].popleft()
            self._begin(connection, frame, now_s, speed=flow.speed)
        else:
            self._share(self._rivals[connection], now_s)
        return Sent(frame=flow.frame, begin_s=flow.begin_s, end_s=now_s)

    def _begin(self, connection: Connection, frame: FrameT, now_s: float, *, speed: float) -> None:
        left_s = self._hops[connection].seconds
        flow = _Flow(frame=frame, begin_s=now_s, since_s=now_s, left_s=left_s, speed=speed)
        self._flows[connection] = flow
        heappush(self._ends, (flow.end_s, connection))

    def _share(self, changed: Iterable[Connection], now_s: float) -> None:
        """Give these, and all that they slow down, the speed that they have beside each other."""
        seen: set[Connection] = set()
        for first in changed:
            if first in seen or first not in self._flows:
                continue
            together = self._together(first)
            seen |= together
            for connection, speed in self._speeds_of(together).items():
                flow = self._flows[connection]
                if flow.speed != speed:
                    flow.change(speed, now_s)
                    heappush(self._ends, (flow.end_s, connection))

    def _together(self, first: Connection) -> frozenset[Connection]:
        """Those in use that share something with this one, or with one that does, and so on."""
        found, reached = {first}, [first]
        while reached:
            for rival in self._rivals[reached.pop()]:
                if rival in self._flows and rival not in found:
                    found.add(rival)
                    reached.append(rival)
        return frozenset(found)

    def _speeds_of(self, together: frozenset[Connection]) -> Mapping[Connection, float]:
        if together not in self._speeds:
            order = sorted(together)
            found = speeds([self._hops[connection] for connection in order])
            self._speeds[together] = dict(zip(order, found, strict=True))
        return self._speeds[together]


def _rivals(hops: Mapping[Connection, Hop]) -> Mapping[Connection, list[Connection]]:
    """Of each connection, those that need something which it needs and all could crowd."""
    tight = crowded(hops.values())
    users = defaultdict[str, list[Connection]](list)
    for connection, hop in hops.items():
        for name in tight & hop.shares.keys():
            users[name].append(connection)
    return {
        connection: sorted(
            {
                rival
                for name in tight & hop.shares.keys()
                for rival in users[name]
                if rival != connection
            }
        )
        for connection, hop in hops.items()
    }
