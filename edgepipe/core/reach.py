"""Which of a node's addresses to use: the fastest of those that answer."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from edgepipe.core.profile import Address

AS_FAST = 0.8
"""Measured speeds this close are noise: one interface under two addresses, say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """An address that answered. `measured_bytes_per_s` is 0 where nothing was measured."""

    address: Address
    round_trip_s: float
    measured_bytes_per_s: float = 0.0


def is_loopback(host: str) -> bool:
    """Whether an address leads to this machine itself."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def rank(reached: Iterable[Reached]) -> tuple[Reached, ...]:
    """The best first: loopback, then by measured speed, and among equals by the interface's word.

    What is left equal goes to the shortest round trip.
    """
    left = sorted(
        reached,
        key=lambda one: (
            not is_loopback(one.address.host),
            -one.address.speed_bytes_per_s,
            one.round_trip_s,
        ),
    )
    ranked: list[Reached] = []
    while left:
        fastest = max(one.measured_bytes_per_s for one in left)
        best = next(
            one
            for one in left
            if is_loopback(one.address.host) or one.measured_bytes_per_s >= AS_FAST * fastest
        )
        left.remove(best)
        ranked.append(best)
    return tuple(ranked)
