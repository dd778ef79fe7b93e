"""Both ends of a link's measurement, over `Stage.Probe`, with the frames of a real boundary.

latency_s            half the median round trip of an 8-byte frame and its credit
bytes_per_s          frame_bytes over the median time from the first byte to the credit
raw_tcp_bytes_per_s  the same over one raw TCP stream, frame by frame in turn with gRPC
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from urllib.parse import unquote

import grpc

from edgepipe.core.api import API
from edgepipe.core.frame import DType, Frame, Header, JobId
from edgepipe.core.profile import Address
from edgepipe.errors import StageError, Unreachable, UsageError, WireError
from edgepipe.transport import raw_tcp
from edgepipe.transport.grpc_link import DialledPipe, Welcome, dial, open_pipe, serve_link
from edgepipe.transport.hello import HELLO_DEADLINE_S, await_hello, hello_message
from edgepipe.transport.link import Hello
from edgepipe.transport.status import Context, aborting
from edgepipe.transport.stream_link import StreamLink
from edgepipe.wire.v1 import frame_pb2

FRAME_BYTES = 16 << 20
MAX_FRAME_BYTES = 64 << 20
BURST_BYTES = 512 << 10
SMALL_BYTES = 8
ROUND_TRIPS = 21
PAUSE_S = 0.01
REPEATS = 7
ENOUGH_S = 10.0
"""On a slow link, fewer repeats will do."""
DEADLINE_S = 120.0
CREDITS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """One link in one direction, from here to there; no raw TCP where it was not measured."""

    bytes_per_s: float
    latency_s: float
    raw_tcp_bytes_per_s: float = 0.0


def probe_handler(
    accept: Callable[[Hello], Awaitable[None]],
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """The far end: takes frames and gives their credits back at once, or opens a raw TCP port.

    `accept` refuses a hello by raising an EdgepipeError.
    """

    async def serve(_: object, context: Context) -> None:
        async with aborting(context):
            hello, fields = await await_hello(context)
            await accept(hello)
            if fields.HasField("raw_tcp"):
                await _serve_raw_tcp(context, hello, fields.raw_tcp.frame_bytes)
            else:
                await _swallow_frames(context, hello)

    return grpc.stream_stream_rpc_method_handler(serve)


async def _swallow_frames(context: Context, hello: Hello) -> None:
    swallowing: list[asyncio.Task[None]] = []

    async def swallow(link: StreamLink) -> None:
        while True:
            await link.receive()
            link.consumed()

    welcome = Welcome(
        hello=replace(hello, api=API, credits=CREDITS),
        take=lambda link: swallowing.append(asyncio.create_task(swallow(link))),
        max_frame_bytes=MAX_FRAME_BYTES,
    )
    await serve_link(context, hello, welcome)
    await asyncio.gather(*swallowing, return_exceptions=True)


async def _serve_raw_tcp(context: Context, hello: Hello, frame_bytes: int) -> None:
    if not 0 < frame_bytes <= MAX_FRAME_BYTES:
        raise WireError(f"a measurement takes frames of 1 to {MAX_FRAME_BYTES} bytes")
    with raw_tcp.Listener(peer_host(context.peer())) as listener:
        offer = frame_pb2.RawTcp(port=listener.port, token=listener.token)
        await context.write(hello_message(replace(hello, api=API, credits=CREDITS), offer))
        try:
            await listener.serve(frame_bytes)
        except (OSError, TimeoutError):
            raise StageError("the TCP stream of a measurement came to nothing") from None


def peer_host(peer: str) -> str:
    """The host in gRPC's name of a peer: `ipv4:10.0.0.1:50`, `ipv6:%5Bfe80::1%25eth0%5D:50`."""
    host = unquote(peer).partition(":")[2].rpartition(":")[0]
    return host.strip("[]")


async def measure(
    channel: grpc.aio.Channel,
    address: Address,
    hello: Hello,
    *,
    peer: str,
    frame_bytes: int = FRAME_BYTES,
    repeats: int = REPEATS,
) -> LinkSpeed:
    """Measure the link to a worker that `channel` reaches at `address`.

    Raises:
        UsageError: frames of that size are not measured.
        Unreachable: the far end, or its TCP port, does not answer, or not in time.
        EdgepipeError: the far end refused `hello`, with its own error.
    """
    if not SMALL_BYTES <= frame_bytes <= MAX_FRAME_BYTES:
        raise UsageError(f"measure with frames of {SMALL_BYTES} to {MAX_FRAME_BYTES} bytes")
    frame_bytes -= frame_bytes % DType.FLOAT32.itemsize
    hello = replace(hello, credits=CREDITS)
    try:
        async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
            link = await dial(channel, hello, peer=peer, method="Probe")
            stack.push_async_callback(link.close)
            pipe, offer = await _ask_raw_tcp(channel, hello, peer=peer, frame_bytes=frame_bytes)
            stack.callback(pipe.drop)
            connection = await raw_tcp.connect(address.host, offer.port, offer.token)
            stack.enter_context(connection)
            latency_s = await measure_latency_s(link)
            grpc_s, raw_s = await _in_turn(link, connection, frame_bytes, repeats)
    except TimeoutError:
        raise Unreachable(f"{peer} took longer than {DEADLINE_S:g} s to measure") from None
    return LinkSpeed(
        bytes_per_s=frame_bytes / grpc_s,
        latency_s=latency_s,
        raw_tcp_bytes_per_s=frame_bytes / raw_s,
    )


async def burst(channel: grpc.aio.Channel, hello: Hello, *, peer: str) -> float:
    """A quick look at a link, in bytes per second."""
    link = await dial(channel, replace(hello, credits=CREDITS), peer=peer, method="Probe")
    try:
        await send(link, frame_of(SMALL_BYTES))
        return BURST_BYTES / await send(link, frame_of(BURST_BYTES))
    finally:
        await link.close()


async def _ask_raw_tcp(
    channel: grpc.aio.Channel, hello: Hello, *, peer: str, frame_bytes: int
) -> tuple[DialledPipe, frame_pb2.RawTcp]:
    """Have the far end listen; it does as long as the pipe is open."""
    pipe, _, fields = await open_pipe(
        channel,
        hello_message(hello, frame_pb2.RawTcp(frame_bytes=frame_bytes)),
        peer=peer,
        method="Probe",
        deadline_s=HELLO_DEADLINE_S,
    )
    return pipe, fields.raw_tcp


async def measure_latency_s(link: StreamLink) -> float:
    """Half the median round trip of a small frame and its credit, each after a pause.

    Frames of a stage come one at a time: whoever waits for them has fallen asleep meanwhile, and
    takes longer to wake than one that is kept busy.
    """
    small = frame_of(SMALL_BYTES)
    found = []
    for _ in range(ROUND_TRIPS):
        await asyncio.sleep(PAUSE_S)
        found.append(await send(link, small))
    return statistics.median(found) / 2


async def _in_turn(
    link: StreamLink, connection: socket.socket, frame_bytes: int, repeats: int
) -> tuple[float, float]:
    """Median seconds per frame over gRPC and over raw TCP, after one of each to warm up."""
    frame = frame_of(frame_bytes)
    start = time.perf_counter()
    rounds: list[tuple[float, float]] = []
    while len(rounds) <= repeats:
        rounds.append((await send(link, frame), await _send_raw(connection, frame.payload)))
        if len(rounds) > 1 and time.perf_counter() - start > ENOUGH_S:
            break
    grpc_s, raw_s = zip(*rounds[1:], strict=True)
    return statistics.median(grpc_s), statistics.median(raw_s)


async def send(link: StreamLink, frame: Frame) -> float:
    """Seconds until the frame's credit is back."""
    start = time.perf_counter()
    link.send(frame)
    await link.settled()
    return time.perf_counter() - start


async def _send_raw(connection: socket.socket, payload: memoryview) -> float:
    start = time.perf_counter()
    await raw_tcp.send_frame(connection, payload)
    return time.perf_counter() - start


def frame_of(size: int) -> Frame:
    """A frame of so many bytes."""
    header = Header(
        job=JobId(""),
        epoch=0,
        step=0,
        group=0,
        shape=(size // DType.FLOAT32.itemsize,),
        payload_bytes=size,
    )
    return Frame(header=header, payload=memoryview(bytearray(b"\x5a") * size))
