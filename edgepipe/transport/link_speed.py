"""What a link carries, measured to plan with: within a second, whatever its speed.

    64 Ki  128 Ki  256 Ki … until a frame takes 20 ms, or is of 1 MiB: warms up, and empties
    │                       the bucket of a shaper that lets a burst through
    └─ frames of that size, one after another for half a second: the median of the later half

A frame takes latency + size / rate to arrive, and its credit a latency to come back.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import replace

import grpc

from edgepipe.errors import Unreachable
from edgepipe.transport.grpc_link import dial
from edgepipe.transport.link import Hello
from edgepipe.transport.measure import CREDITS, LinkSpeed, frame_of, measure_latency_s, send
from edgepipe.transport.stream_link import StreamLink

SMALLEST_BYTES = 64 << 10
LARGEST_BYTES = 1 << 20
LONG_FRAME_S = 0.02
FAST_ENOUGH_S = 0.15
SLOW_ENOUGH_S = 0.6
MIN_FRAMES = 4
DEADLINE_S = 60.0


async def measure_to_plan(channel: grpc.aio.Channel, hello: Hello, *, peer: str) -> LinkSpeed:
    """The link to the worker that `channel` reaches.

    Raises Unreachable where it does not answer in time, and as the far end refused `hello`.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            link = await dial(channel, replace(hello, credits=CREDITS), peer=peer, method="Probe")
            try:
                latency_s = await measure_latency_s(link)
                return LinkSpeed(bytes_per_s=await _rate(link, latency_s), latency_s=latency_s)
            finally:
                await link.close()
    except TimeoutError:
        raise Unreachable(f"{peer} took longer than {DEADLINE_S:g} s to measure") from None


async def _rate(link: StreamLink, latency_s: float) -> float:
    size = SMALLEST_BYTES
    while (took_s := await send(link, frame_of(size))) < LONG_FRAME_S and size < LARGEST_BYTES:
        size *= 2
    enough_s = SLOW_ENOUGH_S if took_s >= LONG_FRAME_S else FAST_ENOUGH_S
    frame, begin_s, found = frame_of(size), time.perf_counter(), list[float]()
    while len(found) < MIN_FRAMES or time.perf_counter() - begin_s < enough_s:
        found.append(await send(link, frame))
    later_s = statistics.median(found[len(found) // 2 :])
    return size / max(later_s - 2 * latency_s, later_s / 2)
