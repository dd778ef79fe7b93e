"""What a plan is made from besides the model: devices, how fast they are, and what links them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edgepipe.core.candidates import Candidate, in_order
from edgepipe.core.problem import Nic
from edgepipe.core.speed import DeviceSpeed, Link

LOOPBACK_BYTES_PER_S = 800e6
LOOPBACK_LATENCY_S = 0.3e-3
"""Between devices of one machine, where nobody measured it: gRPC frames over loopback."""

UNREACHABLE_S = 3600.0
"""The latency that stands for no link at all between two machines: no plan will want it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Devices with their speeds, in the same order; links by the names of nodes; NICs by host."""

    devices: tuple[Candidate, ...]
    speeds: tuple[DeviceSpeed, ...]
    links: tuple[Link, ...] = ()
    nics: dict[str, Nic] = field(default_factory=dict)
    _by_pair: dict[tuple[str, str], Link] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Every device has its speeds."""
        assert len(self.devices) == len(self.speeds)
        by_pair = {(link.sender, link.receiver): link for link in self.links}
        object.__setattr__(self, "_by_pair", by_pair)

    def of(self, nodes: Sequence[str] | None) -> Survey:
        """The devices of these nodes in that order, else all by name; raises as `in_order`."""
        chosen = in_order(self.devices, nodes)
        speeds = dict(zip((each.key for each in self.devices), self.speeds, strict=True))
        return replace(self, devices=chosen, speeds=tuple(speeds[each.key] for each in chosen))

    def learning(self, share: float) -> Survey:
        """Every device with a head that trains on so great a share of its rows."""
        return replace(self, speeds=tuple(speed.learning(share) for speed in self.speeds))

    def link(self, sender: Candidate, receiver: Candidate) -> Link:
        """The link from one device to another: a stated one, loopback, or one of no use."""
        stated = self._by_pair.get((sender.node, receiver.node))
        if stated is not None:
            return stated
        near = sender.machine == receiver.machine
        return Link(
            sender=sender.node,
            receiver=receiver.node,
            bytes_per_s=LOOPBACK_BYTES_PER_S,
            latency_s=LOOPBACK_LATENCY_S if near else UNREACHABLE_S,
        )
