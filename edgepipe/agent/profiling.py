"""Measures a model on this worker's device, on behalf of whoever leases it.

Everything in the request is bounded here. The compute thread measures; between two points it
looks whether anybody still waits.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import structlog
import torch

from edgepipe.agent import deploy
from edgepipe.agent.codec_speed import codec_speeds
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.engines import require_onnx
from edgepipe.agent.fence import Fence
from edgepipe.agent.handover import handover_s, sleepers_handover_s
from edgepipe.agent.resident import empty_cache, give_back_freed_memory
from edgepipe.agent.slowdown import stretch
from edgepipe.agent.throttling import throttled_s, throttling_quota
from edgepipe.core.api import check_api
from edgepipe.core.measured import Items, Measured, Measurement
from edgepipe.core.sampling import Sampling, sample
from edgepipe.core.speed import RUNTIME_S, Curve, ItemSpeed
from edgepipe.engine.torch.bench import Make, Target, random_engine
from edgepipe.engine.torch.measure import measure_items
from edgepipe.engine.torch.median import median_s
from edgepipe.errors import EdgepipeError, StageError, WireError
from edgepipe.transport import convert
from edgepipe.transport.convert.training import MAX_RANK
from edgepipe.wire.v1 import stage_pb2

MAX_SEQUENCE_LENGTH = 1 << 17
MAX_CONFIG_CHARS = 1 << 20
MAX_PENDING_EVENTS = 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be measured, for the lease with that fence."""

    fence: int
    config: Mapping[str, Any]
    asked: Measurement


def check(request: stage_pb2.ProfileRequest) -> Work:
    """Raise WireError unless every value of the request is one that can be measured."""
    check_api(request.api)
    bounds = {
        "slots": (request.num_slots, 1, deploy.MAX_SLOTS),
        "positions": (request.max_positions, 2, deploy.MAX_POSITIONS),
        "rows of a prefill chunk": (request.prefill_chunk, 1, deploy.MAX_PREFILL_CHUNK),
        "tokens of a sequence": (request.sequence_length, 0, MAX_SEQUENCE_LENGTH),
        "rank": (request.rank, 0, MAX_RANK),
        "characters of a config": (len(request.config_json), 2, MAX_CONFIG_CHARS),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise WireError(f"{name} {value} cannot be measured, only {low} to {high}")
    asked = convert.measurement_from_wire(request)
    if asked.dtype not in deploy.FLOATS:
        raise WireError("a stage computes in float32, bfloat16 or float16")
    if asked.engine not in {"torch", "onnx", "emulated"}:
        raise StageError(f"the engine {asked.engine[:40]!r} is not measured, only torch and onnx")
    return Work(
        fence=request.fence,
        config=deploy.parse_json(request.config_json),
        asked=asked,
    )


class _Stopped(Exception):
    """Nobody waits for the measurement any more."""


async def profile(
    work: Work, device: WorkerDevice, fence: Fence
) -> AsyncGenerator[stage_pb2.ProfileEvent, None]:
    """Progress, then what was measured.

    Raises LeaseLost or NodeLeaving when the lease ends before; ModelError and StageError as the
    engine does.
    """
    loop = asyncio.get_running_loop()
    events: asyncio.Queue[stage_pb2.ProfileEvent | None] = asyncio.Queue(MAX_PENDING_EVENTS)
    is_over = threading.Event()

    def put(event: stage_pb2.ProfileEvent | None) -> None:
        if event is None or events.qsize() < MAX_PENDING_EVENTS - 2:
            events.put_nowait(event)

    def advance(done: int, total: int) -> None:
        if is_over.is_set():
            raise _Stopped
        progress = stage_pb2.ProfileProgress(done=done, total=total)
        loop.call_soon_threadsafe(put, stage_pb2.ProfileEvent(progress=progress))

    measuring = asyncio.ensure_future(device.compute.run(lambda: _measure(work, device, advance)))
    lost = asyncio.ensure_future(fence.lost(work.fence))
    for end in (measuring, lost):
        end.add_done_callback(lambda _: put(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        if not measuring.done():
            raise fence.ended("the lease on this device ended while it was measured; try again")
        found = measuring.result()
        runtime_s = max(RUNTIME_S, await _handover_s(work, device))
        found = replace(found, overhead_s=found.overhead_s + runtime_s)
        yield stage_pb2.ProfileEvent(profiled=convert.measured_to_wire(found))
    finally:
        is_over.set()
        lost.cancel()
        await asyncio.wait({measuring, lost})
        if measuring.done():
            measuring.exception()  # _Stopped, of which nobody else hears


async def _handover_s(work: Work, device: WorkerDevice) -> float:
    if work.asked.engine == "emulated":
        return await sleepers_handover_s(device.compute)
    return await handover_s(device.compute, device.torch_device)


def _measure(work: Work, device: WorkerDevice, advance: Callable[[int, int], None]) -> Measured:
    """On the compute thread."""
    try:
        return _measured(work, device, advance)
    except (EdgepipeError, _Stopped) as error:
        _free(error)
        raise
    except (
        RuntimeError,
        MemoryError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        _free(error)
        _log.exception("the device could not be measured")
        raise StageError(
            f"it could not be measured ({type(error).__name__}: see its log)"
        ) from None
    finally:
        gc.collect()
        give_back_freed_memory()
        empty_cache(device.torch_device)


def _free(error: BaseException) -> None:
    """Let go of the weights and caches that an error's frames hold, as long as it lives."""
    traceback.clear_frames(error.__traceback__)


def _measured(work: Work, device: WorkerDevice, advance: Callable[[int, int], None]) -> Measured:
    """All but what the runtime takes, which is measured from the event loop."""
    if work.asked.engine == "emulated":  # its stages' times are given
        return Measured(items=Items(embedding=ItemSpeed(), head=ItemSpeed()))
    target = Target(
        config=work.config,
        asked=work.asked,
        device=device.torch_device,
        clock=clock(device.torch_device, device.slowdown),
        make=_maker(work.asked.engine),
        empty_takes_ids=work.asked.engine == "onnx",
    )
    items, call_s = measure_items(target, advance)
    plain = clock(device.torch_device, 1.0)
    return Measured(
        items=_with_sampling(items, target.vocab_size),
        codecs=codec_speeds(target.hidden_size, work.asked.dtype, device.torch_device, plain),
        overhead_s=call_s,
    )


def _maker(engine: str) -> Make:
    """What makes the stages that are measured. Raises StageError where this agent lacks it."""
    if engine == "torch":
        return random_engine
    require_onnx()
    from edgepipe.engine.onnx import sample  # noqa: PLC0415 -- an extra, and seconds

    return sample.random_engine


def clock(device: torch.device, slowdown: float) -> Callable[[Callable[[], object]], float]:
    """Times a call on the device to its end, slowed down as a stage's is.

    What a GPU was given before is done first: it belongs to no call. On a CPU under a quota it is
    the average of many such calls.
    """
    quota = throttling_quota(torch.get_num_threads()) if device.type == "cpu" else None
    if quota is not None:
        return lambda call: throttled_s(call, quota) * slowdown

    def seconds(call: Callable[[], object]) -> float:
        _finish(device)
        begin = time.perf_counter()
        call()
        _finish(device)
        stretch(begin, slowdown)
        return time.perf_counter() - begin

    return seconds


def _finish(device: torch.device) -> None:
    match device.type:
        case "cuda":
            torch.cuda.synchronize(device)
        case "mps":
            torch.mps.synchronize()
        case _:
            pass


def _with_sampling(items: Items, vocab_size: int) -> Items:
    """A decoded row's token is drawn where the head is; a slower device is none in this."""
    logits = np.random.default_rng(0).standard_normal(vocab_size, np.float32)
    plain = clock(torch.device("cpu"), 1.0)
    draw_s = median_s(lambda: plain(lambda: sample(logits, Sampling(), 0)))
    curve = items.head.decode
    if not curve.rows:
        return items
    seconds = tuple(s + rows * draw_s for rows, s in zip(curve.rows, curve.seconds, strict=True))
    decode = Curve(rows=curve.rows, seconds=seconds)
    return replace(items, head=replace(items.head, decode=decode))
