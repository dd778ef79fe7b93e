"""Devices that are leased for a moment, to measure something on them.

Those on which the job's own stages run are held already: their links are measured under the lease
that is there, and nothing else is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

from edgepipe.coordinator.leases import LeaseClient
from edgepipe.coordinator.nodes import Node
from edgepipe.coordinator.worker_calls import WorkerCalls
from edgepipe.core.candidates import Candidate
from edgepipe.core.profile import Address, DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A device, and the node that it is part of."""

    node: Node
    device: DeviceProfile

    @property
    def who(self) -> str:
        """How it is named in sentences."""
        return f"{self.node.profile.name} ({self.device.id})"

    @property
    def key(self) -> tuple[str, str]:
        """The names of node and device."""
        return self.node.profile.name, self.device.id

    @property
    def order(self) -> tuple[str, str]:
        """The order in which every coordinator takes leases."""
        return self.node.profile.id, self.device.id

    @property
    def candidate(self) -> Candidate:
        """The same for the planner."""
        profile = self.node.profile
        return Candidate(node=profile.name, device=self.device, host=profile.host_id)

    def reached_from(self, other: Spot) -> tuple[Address, ...]:
        """Every way to its worker from another device; loopback first where they share a host."""
        port = self.device.port
        ways = [replace(address, port=port) for address in self.node.profile.addresses]
        if self.node.profile.host_id == other.node.profile.host_id:
            ways.insert(0, Address(host="127.0.0.1", port=port, interface="lo"))
        return tuple(dict.fromkeys(ways))


Held = Mapping[tuple[str, str], int]
"""The fences of leases that are ours, by the names of node and device."""


@asynccontextmanager
async def lent(spot: Spot, job: str, held: Held) -> AsyncIterator[WorkerCalls]:
    """A device under the lease that is held of it, else borrowed. Raises as `borrowed`."""
    fence = held.get(spot.key)
    if fence is None:
        async with borrowed(spot, job) as worker:
            yield worker
        return
    channel = spot.node.worker_channel(spot.device)
    try:
        yield WorkerCalls(who=spot.who, channel=channel, fence=fence)
    finally:
        await channel.close()


@asynccontextmanager
async def borrowed(spot: Spot, job: str) -> AsyncIterator[WorkerCalls]:
    """Lease a device and give it back on leaving, however that comes.

    Raises LeaseHeld, or NodeError where its agent does not answer.
    """
    node = spot.node
    lease = LeaseClient(who=node.profile.name, device=spot.device.id, channel=node.channel)
    granted = await lease.acquire(job)
    renewals = count(1)
    keeping = asyncio.create_task(lease.keep(granted, lambda: next(renewals)))
    channel = node.worker_channel(spot.device)
    try:
        yield WorkerCalls(who=spot.who, channel=channel, fence=granted.fence)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
        if not keeping.cancelled():
            keeping.exception()  # a lost lease, of which the worker tells too
        try:
            await lease.release(granted.fence)
        finally:
            await channel.close()
