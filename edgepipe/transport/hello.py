"""The first message each way on a stream, and the errors of not sending a good one."""

from __future__ import annotations

import asyncio

import grpc

from edgepipe.errors import StageLost, WireError
from edgepipe.transport import chunk
from edgepipe.transport.convert.bounds import text
from edgepipe.transport.link import Hello
from edgepipe.transport.status import Context
from edgepipe.wire.v1 import frame_pb2

HELLO_DEADLINE_S = 5.0
MAX_CREDITS = 1 << 12


def hello_message(hello: Hello, raw_tcp: frame_pb2.RawTcp | None = None) -> bytes:
    """The message that says hello."""
    wire = frame_pb2.Hello(
        api=hello.api,
        job=hello.job,
        epoch=hello.epoch,
        fence=hello.fence,
        from_stage=hello.from_stage,
        credits=hello.credits,
    )
    return chunk.join(frame_pb2.Chunk(hello=wire, raw_tcp=raw_tcp), memoryview(b""))


def parse_hello(message: bytes | None) -> tuple[Hello, frame_pb2.Chunk]:
    """The hello in a message, and what came beside it. Raises WireError or StageLost."""
    if message is None:
        raise StageLost("the other end closed the boundary before it said hello")
    fields, _ = chunk.split(message)
    wire = fields.hello
    if not fields.HasField("hello") or not 1 <= wire.credits <= MAX_CREDITS:
        raise WireError(f"a boundary begins with a hello of 1 to {MAX_CREDITS} credits")
    hello = Hello(
        api=wire.api,
        job=text(wire.job),
        epoch=wire.epoch,
        fence=wire.fence,
        from_stage=wire.from_stage,
        credits=wire.credits,
    )
    return hello, fields


async def await_hello(context: Context) -> tuple[Hello, frame_pb2.Chunk]:
    """The dialler's hello. Raises WireError if it does not come soon."""
    try:
        async with asyncio.timeout(HELLO_DEADLINE_S):
            message = await context.read()
    except TimeoutError:
        raise WireError("a boundary was opened without a hello") from None
    return parse_hello(None if message is grpc.aio.EOF else message)
