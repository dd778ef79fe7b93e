"""Connecting to a node that has several addresses."""

import asyncio
import socket
from pathlib import Path

import grpc
import pytest
from carriers import serving
from wire_frames import HELLO

from edgepipe.core.profile import Address
from edgepipe.errors import LeaseLost, Unreachable
from edgepipe.transport.channel import bind, choose_address, create_server
from edgepipe.transport.measure import burst, probe_handler

DEADLINE_S = 10


@pytest.fixture
async def listening():
    """A server on every address of this machine; its port."""
    server = create_server()
    port = bind(server, "", 0, None)
    await server.start()
    yield port
    await server.stop(0)


@pytest.fixture
def refusing():
    """A port that nobody listens on, for as long as the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


async def choose(*addresses, deadline_s=DEADLINE_S, **options):
    chosen, channel = await choose_address(
        addresses, deadline_s=deadline_s, credentials=None, **options
    )
    assert channel.get_state() is grpc.ChannelConnectivity.READY
    await channel.close()
    return chosen


async def test_the_one_that_answers_is_chosen(listening, refusing):
    dead = Address(host="127.0.0.1", port=refusing)
    black_hole = Address(host="192.0.2.1", port=listening)
    alive = Address(host="127.0.0.1", port=listening)
    assert await choose(dead, black_hole, alive) == alive


async def test_a_name_that_nobody_knows_harms_nobody(listening):
    alive = Address(host="127.0.0.1", port=listening)
    assert await choose(Address(host="nowhere.invalid", port=1), alive) == alive


async def test_unreachable_lists_what_was_tried(refusing):
    start = asyncio.get_running_loop().time()
    with pytest.raises(Unreachable, match=rf"tried 127\.0\.0\.1:{refusing}, \[::1\]:{refusing}"):
        await choose(Address(host="127.0.0.1", port=refusing), Address(host="::1", port=refusing))
    assert asyncio.get_running_loop().time() - start < 5, "a refusal is not waited out"


async def test_silence_is_waited_out_and_no_longer():
    with pytest.raises(Unreachable, match=r"192\.0\.2\.1:9"):
        await choose(Address(host="192.0.2.1", port=9), deadline_s=0.2)


async def test_no_address_at_all_is_unreachable():
    with pytest.raises(Unreachable, match="no address is known"):
        await choose()


def link_local():
    """This machine's first link-local address with its zone, or None."""
    table = Path("/proc/net/if_inet6")
    if not table.exists():
        return None
    entries = [line.split() for line in table.read_text(encoding="ascii").splitlines()]
    for digits, _, _, scope, _, name in entries:
        if scope == "20":
            return f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex(digits))}%{name}"
    return None


@pytest.mark.skipif(link_local() is None, reason="needs a link-local address")
async def test_a_link_local_address_is_dialled_on_its_zone(listening):
    address = Address(host=link_local(), port=listening)
    assert await choose(address) == address


async def accept(hello):
    if hello != HELLO:
        raise LeaseLost("not yours")


async def test_a_burst_gives_a_speed():
    async with serving({"Probe": probe_handler(accept)}) as address:
        _, channel = await choose_address([address], deadline_s=DEADLINE_S, credentials=None)
        assert await burst(channel, HELLO, peer="desk") > 1e6
        await channel.close()


@pytest.mark.skipif(link_local() is None, reason="needs an address beside loopback")
async def test_where_several_answer_they_are_timed_and_one_that_refuses_still_counts(listening):
    on_link = Address(host=link_local(), port=listening)  # no Probe service there
    other = Address(host=link_local(), port=listening, speed_bytes_per_s=125_000_000)
    assert await choose(on_link, other, probe=HELLO) == other
