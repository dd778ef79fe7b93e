"""A runner between neighbours that send what cannot be right, or hang up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from one_process_ring import (
    DEADLINE_S,
    EPOCH,
    JOB,
    emulated,
    load_message,
    make_runner,
)

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.figures import Neighbours, Traffic, Way
from edgepipe.agent.runner import Outcome, Runner
from edgepipe.core.frame import (
    Frame,
    Header,
    JobId,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.sampling import Sampling
from edgepipe.core.stage import Admission
from edgepipe.engine.base import Engine
from edgepipe.errors import EdgepipeError, StageError, StageLost, WireError
from edgepipe.transport import inproc
from edgepipe.transport.link import Link
from edgepipe.transport.stream_link import StreamLink

BETWEEN = Neighbours(upstream="before", downstream="after")
ADMITTED = Admission(
    sequence=SequenceId(1),
    prompt_length=2,
    sampling=Sampling(),
    max_tokens=9,
    eos_ids=frozenset(),
)


@contextmanager
def lone_runner(
    stage: int = 1, num_stages: int = 3, **changes: Any
) -> Iterator[tuple[Runner, StreamLink, StreamLink]]:
    """A stage alone with the far ends of its two boundaries: before it and after it."""
    message = load_message(stage, num_stages, 8)
    before, upstream = inproc.pair(3)
    downstream, after = inproc.pair(3)
    engine = emulated(num_stages)[stage]
    with ComputeThread("test 1") as compute, ComputeThread("test 2") as coding:
        links, threads = (upstream, downstream), (compute, coding)
        yield make_runner(message, engine, links, threads, **changes), before, after


async def ends(runner: Runner) -> BaseException:
    """What a runner ends with, by itself and soon."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            await runner.run()
        except EdgepipeError as error:
            return error
    raise AssertionError("a runner never returns")


async def close(*links: Link) -> None:
    for link in links:
        await link.close()


def rows(*, hidden_size: int = 8, start: int = 0, count: int = 2, **changes: Any) -> Frame:
    payload = memoryview(bytes(4 * count * hidden_size))
    fields: dict[str, Any] = {
        "job": JOB,
        "epoch": EPOCH,
        "step": 1,
        "group": 0,
        "spans": (Span(slot=0, start=start, count=count),),
        "sequences": (SequenceId(1),),
        "shape": (count, hidden_size),
        "payload_bytes": len(payload),
        **changes,
    }
    return Frame(header=Header(**fields), payload=payload)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (rows(hidden_size=9), "a frame has shape"),
        (rows(count=5), "a frame of 5 rows arrived where 1 to 4 are allowed"),
        (rows(start=1), "a span cannot begin at 1"),
        (rows(job=JobId("other")), "a frame of job other arrived"),
    ],
)
async def test_a_frame_that_cannot_be_right_ends_the_runner(frame: Frame, sentence: str) -> None:
    tasks = asyncio.all_tasks()
    with lone_runner() as (runner, before, after):
        before.send(frame)
        error = await ends(runner)
        assert isinstance(error, WireError)
        assert sentence in str(error)
        assert runner.num_frames == 0
        await close(before, after, runner.upstream, runner.downstream)
    assert asyncio.all_tasks() == tasks


async def test_frames_of_another_epoch_are_dropped_and_their_credits_come_back() -> None:
    with lone_runner() as (runner, before, after):
        running = asyncio.create_task(ends(runner))
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(5):
                await before.ready()
                before.send(rows(epoch=EPOCH - 1))
            await before.ready()
            before.send(rows())
            assert (await after.receive()).header.spans == rows().header.spans
        assert (runner.intake.dropped, runner.num_frames) == (5, 1)
        running.cancel()
        await close(before, after, runner.upstream, runner.downstream)


@pytest.mark.parametrize("stage", [0, 1])
async def test_a_neighbour_that_hangs_up_ends_the_runner(stage: int) -> None:
    with lone_runner(stage) as (runner, before, after):
        running = asyncio.create_task(ends(runner))
        await before.close()
        assert isinstance(await running, StageLost)
        await close(after, runner.upstream, runner.downstream)


@contextmanager
def busy(runner: Runner) -> Iterator[None]:
    """Its compute thread has something else to do meanwhile."""
    gate = threading.Event()
    runner.compute.submit(lambda: gate.wait(DEADLINE_S), lambda _: None, lambda _: None)
    try:
        yield
    finally:
        gate.set()


class FailsOnce:
    """An engine that fails at its first frame, and at no other."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def forward(self, *args: Any, **options: Any) -> Any:
        if not self._has_failed:
            self._has_failed = True
            raise StageError("no memory is left")
        return self._engine.forward(*args, **options)


def num_received(runner: Runner) -> int:
    return sum(link.num_frames for link in links_of(runner, Way.RECEIVED))


def links_of(runner: Runner, way: Way) -> list[Traffic]:
    return [traffic for link, traffic in runner.figures.links.items() if link.way is way]


async def came(runner: Runner, num_frames: int) -> None:
    """Return once a runner has been handed so many frames."""
    async with asyncio.timeout(DEADLINE_S):
        while num_received(runner) < num_frames:  # noqa: ASYNC110 -- a count, and no event of it
            await asyncio.sleep(0)


async def test_the_compute_thread_has_the_next_frame_while_it_computes_one() -> None:
    with lone_runner(neighbours=BETWEEN) as (runner, before, after):
        running = asyncio.create_task(ends(runner))
        with busy(runner):
            for start in (0, 2, 4):
                await before.ready()
                before.send(rows(start=start))
            await came(runner, 3)
            assert (runner.num_frames, runner.depths().queued_frames) == (0, 1)
        async with asyncio.timeout(DEADLINE_S):
            starts = [(await after.receive()).header.spans[0].start for _ in range(3)]
        assert starts == [0, 2, 4]
        running.cancel()
        await close(before, after, runner.upstream, runner.downstream)


async def test_a_frame_waits_for_the_token_that_its_sequence_is_drawing() -> None:
    with lone_runner(2, neighbours=BETWEEN) as (runner, before, after):
        runner.admit(ADMITTED, (5, 6))
        running = asyncio.create_task(ends(runner))
        with busy(runner):
            before.send(rows(start=0, count=2))
            before.send(rows(start=2, count=1))
            await came(runner, 2)
            assert (runner.num_frames, runner.depths().queued_frames) == (0, 1)
        async with asyncio.timeout(DEADLINE_S):
            drawn = [(await after.receive()).header.sampled[0].position for _ in range(2)]
        assert drawn == [2, 3]
        running.cancel()
        await close(before, after, runner.upstream, runner.downstream)


@pytest.mark.parametrize("stage", [1, 2])
async def test_nothing_leaves_a_stage_whose_engine_failed_at_the_frame_before(stage: int) -> None:
    """What a following chunk of a prompt comes to without its cache is of no use to anybody."""
    emitted: list[Outcome] = []
    with lone_runner(stage, neighbours=BETWEEN) as (runner, before, after):
        runner.engine, runner.emit = FailsOnce(runner.engine), emitted.append
        runner.admit(replace(ADMITTED, prompt_length=4), (5, 6, 7, 8))
        running = asyncio.create_task(ends(runner))
        with busy(runner):
            for start in (0, 2):
                await before.ready()
                before.send(rows(start=start))
            await came(runner, 2)
        computed = threading.Event()
        runner.compute.submit(computed.set, lambda _: None, lambda _: None)
        computed.wait(DEADLINE_S)  # the loop is told of both frames at once
        assert str(await running) == "no memory is left"
        assert emitted == []
        assert [link.num_frames for link in links_of(runner, Way.SENT)] == [0]
        await close(before, after, runner.upstream, runner.downstream)


def tokens(position: int, epoch: int = EPOCH) -> Frame:
    """What the last stage sends home for sequence 1."""
    token = SampledToken(sequence=SequenceId(1), slot=0, position=position, token=1, logprob=0.0)
    header = Header(job=JOB, epoch=epoch, step=1, group=0, sampled=(token,))
    return Frame(header=header, payload=memoryview(b""))


async def test_tokens_of_another_epoch_are_dropped_too() -> None:
    with lone_runner(0) as (runner, before, after):
        ring_admit(runner)
        running = asyncio.create_task(ends(runner))
        async with asyncio.timeout(DEADLINE_S):
            assert (await after.receive()).header.spans[0].end == 2
            before.send(tokens(9, epoch=EPOCH - 1))
            before.send(tokens(2))
            assert (await after.receive()).header.spans[0].start == 2
        running.cancel()
        await close(before, after, runner.upstream, runner.downstream)


async def test_a_token_that_nobody_asked_for_ends_the_first_stage() -> None:
    with lone_runner(0) as (runner, before, after):
        ring_admit(runner)
        running = asyncio.create_task(ends(runner))
        async with asyncio.timeout(DEADLINE_S):
            await after.receive()
        before.send(tokens(9))
        error = await running
        assert isinstance(error, WireError)
        assert "position 9 of sequence 1 came back where position 2 was due" in str(error)
        await close(before, after, runner.upstream, runner.downstream)


def ring_admit(runner: Runner) -> None:
    assert runner.batching is not None
    runner.batching.admit(SequenceId(1), (5, 6), max_tokens=9)
