"""Who comes and goes is seen, by address and over mDNS."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import AsyncExitStack
from pathlib import Path

from coordinator.in_process_agents import CLUSTER, HOST, Agent
from discovery.test_browse import HOSTS

from edgepipe.coordinator.lookout import Lookout
from edgepipe.coordinator.nodes import Search
from edgepipe.core.api import API
from edgepipe.core.holding import Holding
from edgepipe.core.profile import Address, NodeId
from edgepipe.discovery.advertiser import Advertiser
from edgepipe.discovery.record import Advertisement

DEADLINE_S = 20


async def names(lookout: Lookout) -> list[str]:
    async with lookout.look() as roster:
        return [node.profile.name for node in roster.usable]


async def until(lookout: Lookout, wanted: list[str]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while await names(lookout) != wanted:  # noqa: ASYNC110 -- a look is no event
            await asyncio.sleep(0)  # where nobody is seen yet, nothing else lets the loop go on


async def test_a_static_peer_is_asked_at_every_look(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        agent = Agent(name="node-0")
        await agent.start(tmp_path, stack)
        peer = Address(host=HOST, port=agent.port)
        lookout = Lookout(search=Search(cluster=CLUSTER, peers=(peer,)), holding=Holding())
        assert await names(lookout) == ["node-0"]
        async with lookout.look() as roster:
            (node,) = roster.usable
            await agent.book.acquire(node.profile.devices[0].id, "another", "them@there", 30)
        assert await names(lookout) == []
        ours = Lookout(search=lookout.search, holding=Holding(job="another"))
        assert await names(ours) == ["node-0"]
    assert await names(lookout) == []


async def test_a_node_that_advertises_itself_is_seen_until_it_withdraws(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        agent = Agent(name=secrets.token_hex(8))
        await agent.start(tmp_path, stack)
        lookout = Lookout(search=Search(cluster=CLUSTER, hosts=HOSTS), holding=Holding())
        watching = asyncio.create_task(lookout.watch())
        stack.callback(watching.cancel)
        assert agent.name not in await names(lookout)
        advertiser = Advertiser(HOSTS)
        await advertiser.start(
            Advertisement(
                id=NodeId(agent.name),
                name=agent.name,
                version="0",
                cluster=CLUSTER,
                api=API,
                devices="cpu",
                addresses=(Address(host=HOST, port=agent.port),),
            )
        )
        await until(lookout, [agent.name])
        await advertiser.withdraw()
        await until(lookout, [])
