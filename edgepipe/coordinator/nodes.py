"""Who can be used now: discovery, one conversation with each node, and the verdict on it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from edgepipe.core.api import API
from edgepipe.core.cluster import (
    Appeared,
    ClusterState,
    Described,
    Event,
    MemberKey,
    NodeSighting,
    Refused,
    apply,
)
from edgepipe.core.holding import Holding
from edgepipe.core.profile import Address, DeviceProfile, NodeId, NodeProfile, NodeState
from edgepipe.discovery.addresses import multicast_hosts, read_interfaces, rescoped
from edgepipe.discovery.browse import browse
from edgepipe.discovery.peers import static_sightings
from edgepipe.errors import EdgepipeError
from edgepipe.transport import convert
from edgepipe.transport.channel import Credentials, choose_address, open_channel
from edgepipe.transport.status import calling
from edgepipe.wire.v1 import agent_pb2, agent_pb2_grpc

DESCRIBE_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A usable node and the channel to its supervisor, at the address that was reached."""

    profile: NodeProfile
    address: Address
    channel: grpc.aio.Channel
    credentials: Credentials | None

    def worker_channel(self, device: DeviceProfile) -> grpc.aio.Channel:
        """A new channel to the worker of one of its devices."""
        return open_channel(Address(host=self.address.host, port=device.port), self.credentials)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Where to look, and when it is enough.

    `hosts` are the addresses to speak mDNS from, see `lan_hosts` and `LOOPBACK_HOSTS`; without
    any only `peers` are asked.
    """

    cluster: str
    peers: tuple[Address, ...] = ()
    hosts: tuple[str, ...] = ()
    enough: Callable[[Sequence[NodeSighting]], bool] = lambda _: False
    credentials: Credentials | None = None


LOOPBACK_HOSTS = ("127.0.0.1",)


def lan_hosts(interface: str | None = None) -> tuple[str, ...]:
    """One of our addresses per interface on which agents may be. Raises UsageError."""
    return multicast_hosts(read_interfaces(), only=interface)


@dataclass(slots=True, kw_only=True)
class Roster:
    """What a search found: the cluster's state, and the nodes of it that answered."""

    state: ClusterState
    nodes: dict[NodeId, Node] = field(default_factory=dict)

    @property
    def usable(self) -> tuple[Node, ...]:
        """The nodes that are alive, by name."""
        return tuple(
            self.nodes[member.profile.id]
            for member in self.state.alive
            if member.profile is not None
        )

    def apply(self, event: Event) -> None:
        """Fold an event in."""
        self.state = apply(event, self.state)


@asynccontextmanager
async def find_nodes(search: Search) -> AsyncIterator[Roster]:
    """Search once and talk to every node found; the channels close on leaving."""
    async with meet_nodes(search, await sightings(search)) as roster:
        yield roster


@asynccontextmanager
async def meet_nodes(
    search: Search,
    found: Iterable[NodeSighting],
    *,
    holding: Holding | None = None,
    deadline_s: float = DESCRIBE_DEADLINE_S,
) -> AsyncIterator[Roster]:
    """Talk to the nodes that were sighted; what `holding` names counts as free.

    The channels close on leaving. A node that does not answer within the deadline is not usable.
    """
    meeting = _Meeting(
        roster=Roster(state=ClusterState(cluster=search.cluster, api=API)),
        credentials=search.credentials,
        holding=holding or Holding(),
        deadline_s=deadline_s,
    )
    roster = meeting.roster
    for sighting in found:
        roster.apply(Appeared(sighting=sighting, now_s=_now()))
    try:
        async with asyncio.TaskGroup() as tasks:
            for key, member in roster.state.members.items():
                if member.state is not NodeState.UNUSABLE:
                    tasks.create_task(meeting.meet(key, member.sighting))
        yield roster
    finally:
        for node in roster.nodes.values():
            await node.channel.close()


async def sightings(search: Search) -> tuple[NodeSighting, ...]:
    """Who is to be seen now."""
    if not search.hosts:
        return static_sightings(search.peers)
    return await browse(
        cluster=search.cluster, hosts=search.hosts, peers=search.peers, enough=search.enough
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meeting:
    roster: Roster
    credentials: Credentials | None
    holding: Holding
    deadline_s: float

    async def meet(self, key: MemberKey, sighting: NodeSighting) -> None:
        """Reach a node and have it describe itself; why not is noted in the roster."""
        addresses = rescoped(sighting.addresses, read_interfaces())
        try:
            address, channel = await choose_address(
                addresses, deadline_s=self.deadline_s, credentials=self.credentials
            )
        except EdgepipeError as error:
            self.roster.apply(Refused(key=key, reason=str(error), now_s=_now()))
            return
        try:
            with calling(sighting.name or str(address)):
                stub = agent_pb2_grpc.AgentStub(channel)
                wire = await stub.Describe(
                    agent_pb2.DescribeRequest(api=API), timeout=self.deadline_s
                )
            profile = self.holding.seen(convert.node_from_wire(wire))
        except EdgepipeError as error:
            await channel.close()
            self.roster.apply(Refused(key=key, reason=str(error), now_s=_now()))
            return
        if profile.id in self.roster.nodes:
            await channel.close()  # found twice: as a peer and over mDNS
        else:
            self.roster.nodes[profile.id] = Node(
                profile=profile, address=address, channel=channel, credentials=self.credentials
            )
        self.roster.apply(Described(key=key, profile=profile, now_s=_now()))


def _now() -> float:
    return asyncio.get_running_loop().time()
