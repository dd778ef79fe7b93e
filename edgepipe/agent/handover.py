"""What the runtime takes for a frame beside the engine, with caches that weights have emptied.

    compute thread ──▶ event loop: a frame through a link in this process ──▶ compute thread

Where a stage has read its weights, nothing else is left in a CPU's caches: the same code takes two
or three times as long as in a loop of its own (docs/LOG.md). What carries the frame to another
process suffers as much, and is measured by the link with warm caches; so the difference counts
twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from edgepipe import codec
from edgepipe.agent.compute import ComputeThread
from edgepipe.core.frame import Codec, DType, Frame, Header, JobId, SequenceId, Span
from edgepipe.transport import inproc

EMPTYING_BYTES = 96 << 20
SLEEP_S = 0.01
REPEATS = 15
CREDITS = 4
_DIM = 1024


async def handover_s(compute: ComputeThread, device: torch.device) -> float:
    """Seconds per frame and stage, without its codec and without the link."""
    if device.type != "cpu":  # a GPU's weights pass no cache of ours
        return await _seconds(compute, lambda: None)
    weights = await compute.run(lambda: torch.ones(EMPTYING_BYTES // 4))
    return await _cold_s(compute, weights.sum)


async def sleepers_handover_s(compute: ComputeThread) -> float:
    """The same of an emulated stage, which sleeps: whoever wakes finds its caches cold too."""
    return await _cold_s(compute, lambda: time.sleep(SLEEP_S))


async def _cold_s(compute: ComputeThread, cool: Callable[[], object]) -> float:
    warm_s = await _seconds(compute, lambda: None)
    cold_s = await _seconds(compute, cool)
    return cold_s + max(0.0, cold_s - warm_s)


async def _seconds(compute: ComputeThread, cool: Callable[[], object]) -> float:
    sender, receiver = inproc.pair(CREDITS)
    rows = torch.zeros(1, _DIM)

    def end() -> tuple[float, memoryview]:
        cool()
        return time.perf_counter(), codec.encode(rows, Codec.NONE)

    def begin(frame: Frame) -> float:
        now_s = time.perf_counter()
        codec.decode(
            frame.payload,
            codec=Codec.NONE,
            shape=frame.header.shape,
            dtype=frame.header.dtype,
            device=torch.device("cpu"),
        )
        return now_s

    found = []
    for step in range(REPEATS):
        ended_s, payload = await compute.run(end)
        sender.send(_frame(step, payload))
        frame = await receiver.receive()
        receiver.consumed()
        found.append(await compute.run(partial(begin, frame)) - ended_s)
    await sender.close()
    await receiver.close()
    return sorted(found)[REPEATS // 5]  # what else runs here only ever adds to it


def _frame(step: int, payload: memoryview) -> Frame:
    header = Header(
        job=JobId("measured"),
        epoch=1,
        step=step,
        group=0,
        spans=(Span(slot=0, start=step, count=1),),
        sequences=(SequenceId(1),),
        shape=(1, _DIM),
        dtype=DType.FLOAT32,
        codec=Codec.NONE,
        payload_bytes=len(payload),
    )
    return Frame(header=header, payload=payload)
