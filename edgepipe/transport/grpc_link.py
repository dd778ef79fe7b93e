"""A link over one gRPC stream, `Stage.Boundary`: dialled upstream, accepted downstream.

dials                                    accepts
  │ Chunk{hello: api, job, epoch, fence, credits} ─▶ │  checked by `accept`
  │ ◀───────────────────── Chunk{hello: …, credits}  │
  │ frames and credits ═══════════════════════════▶  │
  │ ◀═══════════════════════════ frames and credits  │
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from edgepipe.errors import StageLost, Unreachable, WireError
from edgepipe.transport.credit import Credit
from edgepipe.transport.hello import HELLO_DEADLINE_S, await_hello, hello_message, parse_hello
from edgepipe.transport.link import DEFAULT_MAX_FRAME_BYTES, Hello
from edgepipe.transport.status import Context, abort, aborting, from_rpc_error
from edgepipe.transport.stream_link import StreamLink
from edgepipe.wire.v1 import frame_pb2

SERVICE = "edgepipe.wire.v1.Stage"
HANG_UP_DEADLINE_S = 1.0
Call = grpc.aio.StreamStreamCall[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """How a stage accepts a boundary: its own hello, and who is handed the link."""

    hello: Hello
    take: Callable[[StreamLink], None]
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
    eager: bool = False


Accept = Callable[[Hello], Awaitable[Welcome]]
"""Called with the dialler's hello; refuses by raising an EdgepipeError."""


@dataclass(frozen=True, slots=True)
class DialledPipe:
    """The dialler's side of a stream; see `Pipe`."""

    call: Call
    peer: str

    async def read(self) -> bytes | None:
        """See `Pipe.read`."""
        try:
            message: Any = await self.call.read()
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.peer) from None
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        """See `Pipe.write`."""
        try:
            await self.call.write(message)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, self.peer) from None
        except asyncio.InvalidStateError:
            raise StageLost(f"{self.peer} ended the boundary") from None

    async def hang_up(self) -> None:
        """See `Pipe.hang_up`."""
        try:
            async with asyncio.timeout(HANG_UP_DEADLINE_S):
                await self.call.done_writing()
                await self.call.code()
        except (TimeoutError, asyncio.InvalidStateError):
            return

    def drop(self) -> None:
        """See `Pipe.drop`."""
        self.call.cancel()


@dataclass(frozen=True, slots=True)
class _AcceptedPipe:
    """When the handler returns, gRPC sends what was written and then the end."""

    context: Context

    async def read(self) -> bytes | None:
        message = await self.context.read()
        return None if message is grpc.aio.EOF else message

    async def write(self, message: bytes) -> None:
        await self.context.write(message)

    async def hang_up(self) -> None:
        return

    def drop(self) -> None:
        return


async def dial(
    channel: grpc.aio.Channel,
    hello: Hello,
    *,
    peer: str,
    method: str = "Boundary",
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    deadline_s: float = HELLO_DEADLINE_S,
    eager: bool = False,
) -> StreamLink:
    """Open a boundary to the stage at the other end of `channel`; `peer` names it in errors.

    Raises:
        Unreachable: it did not answer in time.
        EdgepipeError: it refused, with its own error.
    """
    pipe, answer, _ = await open_pipe(
        channel, hello_message(hello), peer=peer, method=method, deadline_s=deadline_s
    )
    credit = Credit(granted=hello.credits, ceiling=answer.credits, eager=eager)
    return StreamLink(pipe, credit=credit, max_frame_bytes=max_frame_bytes)


async def open_pipe(
    channel: grpc.aio.Channel, message: bytes, *, peer: str, method: str, deadline_s: float
) -> tuple[DialledPipe, Hello, frame_pb2.Chunk]:
    """Open a stream with a hello `message`: the pipe, the answering hello, what came beside it."""
    call: Any = channel.stream_stream(f"/{SERVICE}/{method}")()
    pipe = DialledPipe(call, peer)
    try:
        async with asyncio.timeout(deadline_s):
            await pipe.write(message)
            return pipe, *parse_hello(await pipe.read())
    except TimeoutError:
        call.cancel()
        raise Unreachable(f"{peer} did not answer within {deadline_s:g} s") from None
    except BaseException:
        call.cancel()
        raise


def boundary_handler(accept: Accept) -> grpc.RpcMethodHandler[bytes, bytes]:
    """The handler of a boundary method. Its RPC lives as long as the link it hands over."""

    async def serve(_: object, context: Context) -> None:
        async with aborting(context):
            hello, _fields = await await_hello(context)
            await serve_link(context, hello, await accept(hello))

    return grpc.stream_stream_rpc_method_handler(serve)


async def serve_link(context: Context, hello: Hello, welcome: Welcome) -> None:
    """Answer a hello, hand the link over, and return once it has ended."""
    await context.write(hello_message(welcome.hello))
    credit = Credit(granted=welcome.hello.credits, ceiling=hello.credits, eager=welcome.eager)
    link = StreamLink(
        _AcceptedPipe(context), credit=credit, max_frame_bytes=welcome.max_frame_bytes
    )
    welcome.take(link)
    await _outlive(link, context)


async def _outlive(link: StreamLink, context: Context) -> None:
    """Keep the RPC open until the link is over; tell the peer if its bytes were bad."""
    try:
        failure = await link.ended()
    except asyncio.CancelledError:
        link.drop(StageLost("the connection of the stage before this one is gone"))
        raise
    if isinstance(failure, WireError):
        await abort(context, failure)
