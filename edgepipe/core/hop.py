"""How a frame gets from one stage to the next, and what it occupies on the way.

        send                          receive
a's NIC ────▶ ═══ link a > b ═══▶ ────▶ b's NIC ┄┄ latency ┄┄▶ there
        └────────── occupied, all at once ────┘   └─ occupies nothing

A frame occupies its link, what its sender's host sends through and what its receiver's host
receives through, each of which carries one frame at a time, for the seconds of the slowest of
them. Between devices of one host it occupies only its link. A medium is one such resource for all
its stations and both directions; a frame from one station to another crosses it twice. Resources
are named as in `edgepipe.core.resources`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

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
    """One direction of a boundary: a frame occupies `resources` for `seconds`, then it travels."""

    seconds: float = 0.0
    latency_s: float = 0.0
    resources: tuple[str, ...] = ()


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
    return Hop(seconds=max(occupied.values()), latency_s=frame.latency_s, resources=tuple(occupied))
