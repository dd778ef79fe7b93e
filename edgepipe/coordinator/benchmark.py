"""What a running pipeline gives, and the bound it is held against."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.coordinator.stage_client import StageMeter
from edgepipe.core.frame import SampledToken, SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling
from edgepipe.errors import UsageError

PromptOf = Callable[[int], Sequence[int]]
"""The prompt of a sequence, by its number. No two may begin alike: what a slot holds is reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeFigures:
    """Decoding with `streams` sequences at once.

    `stage_s` is each stage's compute time per frame, `busy` its share of the time measured;
    `hop_overhead_s` what a turn of the ring takes beyond compute, per hop (one stream only).
    """

    streams: int
    tokens_per_s: float
    ttft_p50_s: float
    ttft_p99_s: float
    stage_s: tuple[float, ...]
    busy: tuple[float, ...]
    hop_overhead_s: float
    bound_tokens_per_s: float


@dataclass(slots=True, kw_only=True)
class _Stream:
    began_s: float
    token_s: list[float]


async def measure_decode(
    pipeline: Pipeline, *, streams: int, num_tokens: int, prompt_of: PromptOf, base: int
) -> DecodeFigures:
    """Decode `streams` sequences of `num_tokens` at once; `base` numbers the first of them.

    The rate counts the time in which every stream decodes: from the last first token to the
    first last token. Raises UsageError where nothing falls into that time.
    """
    meters: list[list[StageMeter]] = []
    runs = [_Stream(began_s=time.perf_counter(), token_s=[]) for _ in range(streams)]
    all_began, one_ended = asyncio.Event(), asyncio.Event()

    async def run(index: int) -> None:
        request = Request(
            sequence=SequenceId(base + index),
            prompt_ids=tuple(prompt_of(base + index)),
            sampling=Sampling(),
            max_tokens=num_tokens,
            eos_ids=frozenset(),
        )
        async for produced in pipeline.generate(request):
            if isinstance(produced, SampledToken):
                runs[index].token_s.append(time.perf_counter())
                if all(run.token_s for run in runs):
                    all_began.set()
        one_ended.set()

    async with asyncio.TaskGroup() as tasks:
        for index in range(streams):
            tasks.create_task(run(index))
        await all_began.wait()
        meters.append(await pipeline.meter())
        begin = time.perf_counter()
        await one_ended.wait()
        end = time.perf_counter()
        meters.append(await pipeline.meter())
    return _figures(pipeline, runs, meters, begin, end)


def _figures(
    pipeline: Pipeline,
    runs: Sequence[_Stream],
    meters: Sequence[Sequence[StageMeter]],
    begin: float,
    end: float,
) -> DecodeFigures:
    streams = len(runs)
    tokens = sum(begin < at <= end for run in runs for at in run.token_s)
    if not tokens:
        raise UsageError("too few tokens for a rate: ask for more with --tokens")
    rate = tokens / (end - begin)
    before, after = meters
    busy_s = [b.busy_s - a.busy_s for a, b in zip(before, after, strict=True)]
    frames = [max(1, b.num_frames - a.num_frames) for a, b in zip(before, after, strict=True)]
    stage_s = tuple(busy / count for busy, count in zip(busy_s, frames, strict=True))
    waits = [run.token_s[0] - run.began_s for run in runs]
    overhead = (1 / rate - sum(stage_s)) / len(stage_s) if streams == 1 else 0.0
    groups = min(pipeline.deployment.num_groups, streams)
    return DecodeFigures(
        streams=streams,
        tokens_per_s=rate,
        ttft_p50_s=statistics.median(waits),
        ttft_p99_s=_percentile(waits, 0.99),
        stage_s=stage_s,
        busy=tuple(busy / (end - begin) for busy in busy_s),
        hop_overhead_s=overhead,
        bound_tokens_per_s=_bound(stage_s, streams, groups),
    )


def _bound(stage_s: Sequence[float], streams: int, groups: int) -> float:
    """DESIGN §2 without hops: g · min(1 / max stage time, G / ring time)."""
    slowest, ring = max(stage_s), sum(stage_s)
    if not ring:
        return 0.0
    return streams / groups * min(1 / slowest, groups / ring)


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def distinct_prompts(num_tokens: int, vocab_size: int) -> PromptOf:
    """Prompts of so many tokens, each of which begins with another one."""
    most = vocab_size - 1
    return lambda sequence: [1 + (sequence + place) % most for place in range(num_tokens)]


async def measure_prefill(pipeline: Pipeline, *, prompt_of: PromptOf, base: int) -> float:
    """Prompt tokens per second until the first token, one sequence."""
    prompt_ids = prompt_of(base)
    request = Request(
        sequence=SequenceId(base),
        prompt_ids=tuple(prompt_ids),
        sampling=Sampling(),
        max_tokens=1,
        eos_ids=frozenset(),
    )
    begin = time.perf_counter()
    async for _ in pipeline.generate(request):
        pass
    return len(prompt_ids) / (time.perf_counter() - begin)
