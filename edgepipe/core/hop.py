"""How a frame gets from one stage to the next, and what it occupies on the way.

        send                          receive
a's NIC ────▶ ═══ link a > b ═══▶ ────▶ b's NIC ┄┄ latency ┄┄▶ there
        └────────── occupied, all at once ────┘   └─ occupies nothing

A frame occupies its link, what its sender's host sends through and what its receiver's host
receives through. Alone it goes as fast as the slowest of them, and of the others it takes a share;
how frames share a resource that they need at once is told in `edgepipe.core.sharing`. Between
devices of one host it occupies only its link. A medium is one such resource for all its stations
and both directions; a frame from one station to another crosses it twice. Resources are named as in
`edgepipe.core.resources`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgepipe.core.problem import Nic


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a stage runs: a device by its name, `node/device`, and its host."""

    name: str
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The bytes of one frame, and the link that carries it."""

    num_bytes: float
    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hop:
    """One direction of a boundary: what a frame of `num_bytes` occupies, and then its latency.

    `occupied` are the seconds that each resource takes for the frame alone. Where there are some,
    there are bytes.
    """

    num_bytes: float = 0.0
    latency_s: float = 0.0
    occupied: Mapping[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """From its begin until it has left, if it travels alone."""
        return max(self.occupied.values(), default=0.0)

    @property
    def shares(self) -> Mapping[str, float]:
        """Of every resource that it needs, how much it takes when it travels alone; 1 is all."""
        alone_s = self.seconds
        return {name: each / alone_s for name, each in self.occupied.items() if each}


def hop(sender: Place, receiver: Place, frame: Frame, nics: Mapping[str, Nic]) -> Hop:
    """What a frame from one place to another occupies, and how long.

    A host that `nics` does not name is never a bottleneck.
    """
    occupied = defaultdict[str, float](float)
    occupied[f"link {sender.name} > {receiver.name}"] = frame.num_bytes / frame.bytes_per_s
    if sender.host != receiver.host:
        if (nic := nics.get(sender.host)) is not None:
            occupied[nic.sends_through(sender.host)] += frame.num_bytes / nic.send_bytes_per_s
        if (nic := nics.get(receiver.host)) is not None:
            occupied[nic.receives_through(receiver.host)] += (
                frame.num_bytes / nic.receive_bytes_per_s
            )
    return Hop(num_bytes=frame.num_bytes, latency_s=frame.latency_s, occupied=dict(occupied))
