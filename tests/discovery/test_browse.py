"""Real mDNS on the loopback interface."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from edgepipe.core.cluster import Appeared, Withdrawn
from edgepipe.core.profile import Address, NodeId
from edgepipe.discovery.advertiser import Advertiser
from edgepipe.discovery.browse import browse
from edgepipe.discovery.browser import Browser
from edgepipe.discovery.record import SERVICE_TYPE, Advertisement

HOSTS = ("127.0.0.1",)
Advertise = Callable[..., Awaitable[tuple[Advertiser, Advertisement]]]


@pytest.fixture
def cluster() -> str:
    """A cluster of its own for every test: other tests may speak mDNS on this machine too."""
    return f"test-{secrets.token_hex(4)}"


@pytest.fixture
async def advertise(cluster: str) -> AsyncIterator[Advertise]:
    advertisers: list[Advertiser] = []

    async def start(name: str, host: str = "127.0.0.1") -> tuple[Advertiser, Advertisement]:
        advertiser = Advertiser(HOSTS)
        advertisers.append(advertiser)
        advertisement = Advertisement(
            id=NodeId(secrets.token_hex(8)),
            name=name,
            version="0.1.0",
            cluster=cluster,
            api=1,
            devices="cpu",
            addresses=(Address(host=host, port=4000),),
        )
        await advertiser.start(advertisement)
        return advertiser, advertisement

    yield start
    await asyncio.gather(*(advertiser.withdraw() for advertiser in advertisers))


async def next_of(browser: Browser, *ids: NodeId) -> Appeared | Withdrawn:
    async with asyncio.timeout(5):
        async for event in browser:
            key = event.sighting.key if isinstance(event, Appeared) else event.key
            if key in ids:
                return event
    raise AssertionError("a browser never ends")


async def test_agents_are_found_as_soon_as_there_are_enough(
    cluster: str, advertise: Advertise
) -> None:
    wanted = {(await advertise(name))[1].id for name in ("attic", "cellar", "desk")}
    found = await browse(cluster=cluster, hosts=HOSTS, enough=lambda ours: len(ours) == 3)
    assert {sighting.id for sighting in found if sighting.cluster == cluster} == wanted


async def test_the_search_ends_when_nothing_new_comes(cluster: str, advertise: Advertise) -> None:
    _, advertisement = await advertise("attic")
    found = await browse(cluster=cluster, hosts=HOSTS, settle_s=0.3, deadline_s=30)
    assert advertisement.id in {sighting.id for sighting in found}


async def test_nodes_of_other_clusters_are_reported_but_not_waited_for(
    advertise: Advertise,
) -> None:
    _, advertisement = await advertise("attic")
    found = await browse(cluster="nobody", hosts=HOSTS, deadline_s=0.7)
    assert advertisement.id in {sighting.id for sighting in found}


async def test_static_peers_count_as_found(cluster: str) -> None:
    peers = (Address(host="10.9.9.9", port=1), Address(host="10.9.9.8", port=1))
    found = await browse(
        cluster=cluster, hosts=HOSTS, peers=peers, enough=lambda ours: len(ours) == 2
    )
    assert [sighting.addresses for sighting in found[:2]] == [(peer,) for peer in peers]


async def test_an_agent_that_starts_while_we_watch_appears_once(advertise: Advertise) -> None:
    async with Browser(HOSTS) as browser:
        advertiser, advertisement = await advertise("attic", "::1")
        event = await next_of(browser, advertisement.id)
        assert isinstance(event, Appeared)
        assert event.sighting.addresses == (Address(host="::1", port=4000),)
        await advertiser.withdraw()
        assert isinstance(await next_of(browser, advertisement.id), Withdrawn)


async def test_a_changed_advertisement_appears_again(advertise: Advertise) -> None:
    advertiser, advertisement = await advertise("attic")
    async with Browser(HOSTS) as browser:
        await next_of(browser, advertisement.id)
        await advertiser.update(replace(advertisement, devices="cpu, mps"), HOSTS)
        event = await next_of(browser, advertisement.id)
    assert isinstance(event, Appeared)
    assert event.sighting.devices == "cpu, mps"


async def test_a_malformed_record_is_reported_and_ignored(advertise: Advertise) -> None:
    forged = AsyncServiceInfo(
        SERVICE_TYPE,
        f"forged-{secrets.token_hex(4)}.{SERVICE_TYPE}",
        port=1,
        properties={"id": "../../etc/passwd", "api": "1"},
        server="forged.local.",
        parsed_addresses=["127.0.0.1"],
    )
    zeroconf = AsyncZeroconf(interfaces=list(HOSTS))
    try:
        with capture_logs() as logs:
            async with Browser(HOSTS) as browser:
                await zeroconf.async_register_service(forged, cooperating_responders=True)
                _, advertisement = await advertise("attic")
                await next_of(browser, advertisement.id)
    finally:
        await zeroconf.async_close()
    ignored = [log for log in logs if log.get("instance") == forged.name]
    assert ignored[0]["because"] == "its 'id' is '../../etc/passwd'"


async def test_a_withdrawal_of_one_instance_does_not_remove_its_twin(
    advertise: Advertise,
) -> None:
    """Anyone can advertise another's id, and withdraw it."""
    _, advertisement = await advertise("attic")
    forger = Advertiser(HOSTS)
    async with Browser(HOSTS) as browser:
        await next_of(browser, advertisement.id)
        await forger.start(replace(advertisement, name="forged"))
        await next_of(browser, advertisement.id)
        await forger.withdraw()
        _, last = await advertise("last")
        assert isinstance(await next_of(browser, advertisement.id, last.id), Appeared)
