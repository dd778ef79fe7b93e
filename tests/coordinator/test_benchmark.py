"""The benchmark's figures, over a real pipeline whose stage times are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from in_process_agents import emulated_pipeline, running_agents

from edgepipe.coordinator.benchmark import distinct_prompts, measure_decode, measure_prefill
from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.errors import UsageError

DEADLINE_S = 30
FAST_S, SLOW_S = 0.01, 0.02
SHORT = distinct_prompts(4, 96)


@asynccontextmanager
async def two_stages(home: Path) -> AsyncIterator[Pipeline]:
    """One of 10 ms and one of 20 ms a frame."""
    async with (
        asyncio.timeout(DEADLINE_S),
        running_agents(2, home) as agents,
        emulated_pipeline(agents, stage_s=[FAST_S, SLOW_S]) as pipeline,
    ):
        yield pipeline


async def test_one_stream_is_held_against_the_time_of_a_turn(tmp_path: Path) -> None:
    async with two_stages(tmp_path) as pipeline:
        figures = await measure_decode(pipeline, streams=1, num_tokens=15, prompt_of=SHORT, base=1)
    fast_s, slow_s = figures.stage_s
    assert FAST_S <= fast_s < slow_s
    assert slow_s >= SLOW_S
    assert figures.bound_tokens_per_s == pytest.approx(1 / (fast_s + slow_s))
    assert 0.2 * figures.bound_tokens_per_s < figures.tokens_per_s < 1.1 / (FAST_S + SLOW_S)
    turn_s = 1 / figures.tokens_per_s
    assert figures.hop_overhead_s == pytest.approx((turn_s - fast_s - slow_s) / 2)
    assert figures.ttft_p50_s == figures.ttft_p99_s >= FAST_S + SLOW_S
    assert figures.busy[0] < figures.busy[1]


async def test_two_streams_on_two_stages_are_held_against_the_slowest_stage(tmp_path: Path) -> None:
    async with two_stages(tmp_path) as pipeline:
        figures = await measure_decode(pipeline, streams=2, num_tokens=20, prompt_of=SHORT, base=1)
    fast_s, slow_s = figures.stage_s
    assert figures.streams == 2
    assert figures.bound_tokens_per_s == pytest.approx(min(1 / slow_s, 2 / (fast_s + slow_s)))
    assert figures.tokens_per_s > 1 / (fast_s + slow_s), "more than one stream alone"
    assert figures.hop_overhead_s == 0.0
    assert figures.ttft_p50_s <= figures.ttft_p99_s


async def test_as_many_streams_as_there_are_slots_share_frames(tmp_path: Path) -> None:
    async with two_stages(tmp_path) as pipeline:
        figures = await measure_decode(pipeline, streams=4, num_tokens=12, prompt_of=SHORT, base=1)
    assert figures.bound_tokens_per_s == pytest.approx(
        2 * min(1 / max(figures.stage_s), 2 / sum(figures.stage_s))
    )
    assert figures.tokens_per_s > 1 / max(figures.stage_s), "more than a token per frame"


async def test_too_few_tokens_for_a_rate_are_a_wrong_use(tmp_path: Path) -> None:
    async with two_stages(tmp_path) as pipeline:
        with pytest.raises(UsageError, match="ask for more with --tokens"):
            await measure_decode(pipeline, streams=1, num_tokens=1, prompt_of=SHORT, base=1)


async def test_prefill_counts_the_prompt_until_its_first_token(tmp_path: Path) -> None:
    """48 tokens are three chunks, the second time too; the slow stage takes its time for each."""
    prompt_of = distinct_prompts(48, 96)
    async with two_stages(tmp_path) as pipeline:
        rates = [await measure_prefill(pipeline, prompt_of=prompt_of, base=n) for n in (1, 2)]
    best_s = FAST_S + 3 * SLOW_S
    assert all(0.1 * 48 / best_s < rate <= 48 / best_s for rate in rates)


def test_no_two_prompts_begin_alike() -> None:
    prompts = [distinct_prompts(4, 6)(sequence) for sequence in range(5)]
    assert prompts == [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 1], [4, 5, 1, 2], [5, 1, 2, 3]]
