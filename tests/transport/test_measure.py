"""Both ends of a measurement, over loopback."""

import asyncio
import socket
from dataclasses import replace

import psutil
import pytest
from carriers import serving
from wire_frames import HELLO

from edgepipe.errors import LeaseLost, StageError, Unreachable, UsageError, WireError
from edgepipe.transport import raw_tcp
from edgepipe.transport.channel import open_channel
from edgepipe.transport.grpc_link import open_pipe
from edgepipe.transport.hello import hello_message
from edgepipe.transport.measure import MAX_FRAME_BYTES, measure, peer_host, probe_handler
from edgepipe.wire.v1 import frame_pb2

DEADLINE_S = 20


async def accept(hello):
    if hello.fence != HELLO.fence:
        raise LeaseLost("job x has no lease here")


@pytest.fixture
async def far():
    """The far end's address, and a channel to it."""
    async with (
        serving({"Probe": probe_handler(accept)}) as address,
        open_channel(address, None) as channel,
    ):
        yield address, channel


async def soon(awaitable):
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


@pytest.mark.parametrize("frame_bytes", [8, 1 << 20, (1 << 20) + 3])
async def test_a_link_has_a_speed_a_latency_and_a_bound(far, frame_bytes):
    address, channel = far
    speed = await soon(
        measure(channel, address, HELLO, peer="desk", frame_bytes=frame_bytes, repeats=2)
    )
    assert speed.bytes_per_s > 0
    assert speed.raw_tcp_bytes_per_s > 0
    assert 0 < speed.latency_s < 1


@pytest.mark.parametrize("frame_bytes", [0, MAX_FRAME_BYTES + 1])
async def test_frames_of_no_size_or_too_large_are_refused(far, frame_bytes):
    address, channel = far
    with pytest.raises(UsageError, match="frames of 8 to"):
        await measure(channel, address, HELLO, peer="desk", frame_bytes=frame_bytes)


async def test_who_has_no_lease_measures_nothing(far):
    address, channel = far
    with pytest.raises(LeaseLost, match="no lease"):
        await soon(measure(channel, address, replace(HELLO, fence=1), peer="desk"))


async def ask_raw_tcp(channel, frame_bytes):
    message = hello_message(HELLO, frame_pb2.RawTcp(frame_bytes=frame_bytes))
    pipe, _, fields = await open_pipe(
        channel, message, peer="desk", method="Probe", deadline_s=DEADLINE_S
    )
    return pipe, fields.raw_tcp


@pytest.mark.parametrize("frame_bytes", [0, MAX_FRAME_BYTES + 1])
async def test_a_raw_stream_of_no_size_or_too_large_is_refused(far, frame_bytes):
    _, channel = far
    with pytest.raises(WireError):
        await soon(ask_raw_tcp(channel, frame_bytes))


async def test_a_connection_without_the_token_gets_nothing(far):
    address, channel = far
    pipe, offer = await soon(ask_raw_tcp(channel, 8))
    stranger = await soon(raw_tcp.connect(address.host, offer.port, bytes(32)))
    with stranger, pytest.raises((Unreachable, ConnectionError)):
        await soon(raw_tcp.send_frame(stranger, memoryview(bytes(8))))
    assert await soon(pipe.read()) is None, "and the listener is gone"


async def test_one_connection_is_accepted_and_no_second(far):
    address, channel = far
    pipe, offer = await soon(ask_raw_tcp(channel, 8))
    with await soon(raw_tcp.connect(address.host, offer.port, offer.token)) as connection:
        await soon(raw_tcp.send_frame(connection, memoryview(bytes(8))))
        with pytest.raises(Unreachable, match="no TCP connection"):
            await soon(raw_tcp.connect(address.host, offer.port, offer.token))
    pipe.drop()


async def test_a_listener_that_nobody_calls_gives_up(far, monkeypatch):
    _, channel = far
    monkeypatch.setattr(raw_tcp, "ACCEPT_DEADLINE_S", 0.05)
    pipe, _ = await soon(ask_raw_tcp(channel, 8))
    with pytest.raises(StageError, match="came to nothing"):
        await soon(pipe.read())


def listens_on(port):
    """Seen from outside: a connection in the moment of its end would be lost by the loop."""
    connections = psutil.Process().net_connections(kind="tcp")
    return any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections)


async def test_a_listener_ends_with_its_call(far):
    _, channel = far
    pipe, offer = await soon(ask_raw_tcp(channel, 8))
    assert listens_on(offer.port)
    pipe.drop()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if not listens_on(offer.port):
                break
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.0.0.1:50", "10.0.0.1"),
        ("ipv6:%5B::1%5D:50", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50", "fe80::1%eth0"),
    ],
)
def test_the_host_in_grpcs_name_of_a_peer(peer, host):
    assert peer_host(peer) == host


@pytest.mark.parametrize(
    ("peer", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)]
)
def test_for_a_peer_on_this_machine_only_loopback_listens(peer, family):
    with raw_tcp.Listener(peer) as listener:
        assert listener._socket.family == family
        assert listener._socket.getsockname()[0] == peer
