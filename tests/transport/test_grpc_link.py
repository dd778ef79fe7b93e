"""What can go wrong on a boundary between machines, and that the server outlives it."""

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from carriers import boundary, serving
from wire_frames import HELLO, rows

from edgepipe.core.profile import Address
from edgepipe.errors import LeaseHeld, StageLost, Unreachable, VersionMismatch, WireError
from edgepipe.transport import chunk, endpoint, server
from edgepipe.transport.channel import open_channel
from edgepipe.transport.grpc_link import SERVICE, boundary_handler, dial
from edgepipe.transport.hello import hello_message
from edgepipe.transport.pieces import cut
from edgepipe.transport.status import from_rpc_error
from edgepipe.wire.v1 import frame_pb2

BOUNDARY_END = Path(__file__).with_name("boundary_end.py")
DEADLINE_S = 10


async def soon(awaitable):
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


def frame_message(frame):
    return next(cut(frame, lambda: 0, chunk.CHUNK_BYTES))


async def talk(channel, *messages):
    """Write raw messages on a boundary and return the error that ends it."""
    call = channel.stream_stream(f"/{SERVICE}/Boundary")()
    try:
        for message in messages:
            await call.write(message)
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return from_rpc_error(error, "the stage")
    return None


GOOD = frame_message(rows(2))
BAD_BYTES = {
    "truncated": (GOOD[:-5], "cut off"),
    "damaged": (GOOD[:-1] + b"!", "checksum"),
    "noise": (b"\xde\xad\xbe\xef" * 9, "not a chunk"),
    "too large": (frame_message(rows(400)), "allowed"),
    "not announced": (
        chunk.join(frame_pb2.Chunk(offset=64), memoryview(b"abc")),
        "a chunk at 64 came where 0 was due",
    ),
    "credits from nowhere": (
        chunk.join(frame_pb2.Chunk(credits=9), memoryview(b"")),
        "9 credits came back",
    ),
}


@pytest.mark.parametrize(("bad", "sentence"), BAD_BYTES.values(), ids=BAD_BYTES)
async def test_bad_bytes_are_one_sentence_at_both_ends_and_the_server_stays_up(bad, sentence):
    async with (
        boundary(max_frame_bytes=4096) as (address, links),
        open_channel(address, None) as channel,
    ):
        error = await soon(talk(channel, hello_message(HELLO), bad))
        assert isinstance(error, WireError)
        assert sentence in str(error)
        with pytest.raises(WireError, match=sentence):
            await soon((await soon(links.get())).receive())
        link = await soon(dial(channel, HELLO, peer="the stage"))
        await soon(link.close())


async def test_a_sender_without_credit_is_cut_off():
    async with boundary() as (address, _), open_channel(address, None) as channel:
        error = await soon(talk(channel, hello_message(HELLO), *[GOOD] * 3))
        assert isinstance(error, WireError)
        assert "beyond the 2 credits" in str(error)


@pytest.mark.parametrize(
    "first",
    [GOOD, hello_message(replace(HELLO, credits=0)), hello_message(replace(HELLO, job="a\nb"))],
    ids=["no hello", "no credits", "a name with a line break"],
)
async def test_a_boundary_begins_with_a_good_hello(first):
    async with boundary() as (address, _), open_channel(address, None) as channel:
        assert isinstance(await soon(talk(channel, first)), WireError)


@pytest.mark.parametrize("error", [LeaseHeld("job a has it"), VersionMismatch("api 1, not 2")])
async def test_a_refused_hello_raises_the_far_sides_error(error):
    async def refuse(hello):
        assert hello == HELLO
        raise error

    async with (
        serving({"Boundary": boundary_handler(refuse)}) as address,
        open_channel(address, None) as channel,
    ):
        with pytest.raises(type(error), match=str(error)):
            await soon(dial(channel, HELLO, peer="the stage"))


async def test_nobody_there_is_unreachable():
    async with boundary() as (address, _):
        pass
    async with open_channel(address, None) as channel:
        with pytest.raises(Unreachable, match="the stage does not answer"):
            await soon(dial(channel, HELLO, peer="the stage"))


async def test_a_stage_that_does_not_answer_in_time_is_unreachable():
    async def silent(_hello):
        await asyncio.Event().wait()

    async with (
        serving({"Boundary": boundary_handler(silent)}) as address,
        open_channel(address, None) as channel,
    ):
        with pytest.raises(Unreachable, match=r"did not answer within 0\.1 s"):
            await soon(dial(channel, HELLO, peer="the stage", deadline_s=0.1))


async def test_a_dialler_that_vanishes_is_a_lost_stage():
    async with boundary() as (address, links):
        async with open_channel(address, None) as channel:
            link = await soon(dial(channel, HELLO, peer="the stage"))
            accepted = await soon(links.get())
            waiting = asyncio.create_task(accepted.receive())
            await asyncio.sleep(0)
        with pytest.raises(StageLost):
            await soon(waiting)
        with pytest.raises(StageLost):
            await soon(link.receive())


async def test_a_server_that_vanishes_is_a_lost_stage():
    async with boundary() as (address, _):
        channel = open_channel(address, None)
        link = await soon(dial(channel, HELLO, peer="the stage"))
    with pytest.raises(StageLost):
        await soon(link.receive())
    await link.close()
    await channel.close()


def hurried(options):
    """The same options with a ping every second, which is as fast as gRPC goes, not every ten."""
    names = ("grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms")
    return tuple((name, value // 10 if name in names else value) for name, value in options)


async def test_an_idle_stream_is_pinged_and_lives(monkeypatch):
    strict = (("grpc.http2.max_ping_strikes", 1),)
    monkeypatch.setattr(server, "SERVER_OPTIONS", hurried(server.SERVER_OPTIONS) + strict)
    monkeypatch.setattr(endpoint, "CHANNEL_OPTIONS", hurried(endpoint.CHANNEL_OPTIONS))
    async with boundary() as (address, links), open_channel(address, None) as channel:
        link = await soon(dial(channel, HELLO, peer="the stage"))
        with pytest.raises(TimeoutError):  # by gRPC's own limits it ends after 3 to 5 s
            async with asyncio.timeout(6):
                await link.ended()
        accepted = await soon(links.get())
        link.send(rows(1))
        await soon(accepted.receive())
        await soon(link.close())


@contextmanager
def other_process(*arguments):
    """One end of a boundary in a process of its own; killed on leaving."""
    command = (sys.executable, BOUNDARY_END, *arguments)
    environment = os.environ | {"PYTHONPATH": str(BOUNDARY_END.parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


async def first_line(process):
    return (await soon(asyncio.to_thread(process.stdout.readline))).strip()


async def test_a_killed_dialler_is_a_lost_stage_at_once(caplog):
    async with boundary() as (address, links):
        with other_process("dial", str(address.port)) as process:
            accepted = await soon(links.get())
            await soon(accepted.receive())
            process.kill()
            with pytest.raises(StageLost):
                await soon(accepted.receive())
        await soon(accepted.close())
    assert not caplog.records


async def test_a_killed_server_is_a_lost_stage_at_once(caplog):
    with other_process("accept") as process:
        address = Address(host="127.0.0.1", port=int(await first_line(process)))
        async with open_channel(address, None) as channel:
            link = await soon(dial(channel, HELLO, peer="the stage"))
            await soon(link.receive())
            process.kill()
            with pytest.raises(StageLost, match="the stage"):
                await soon(link.receive())
            await soon(link.close())
    assert not caplog.records
