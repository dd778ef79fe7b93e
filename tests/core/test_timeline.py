"""Timelines keep the rules: order, inputs, one thing at a time, no needless waiting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from drawn_networks import Training, any_problem, any_training
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.goal import Throughput
from edgepipe.core.hop import Hop
from edgepipe.core.problem import Placement, Problem
from edgepipe.core.ring import Ring
from edgepipe.core.schedule import Action
from edgepipe.core.timeline import Input, Span, Task, Timeline, Transfer, timeline

few = settings(max_examples=40, deadline=None)

RING = any_problem(Throughput(num_groups=2, group_size=1), shares=True)


def task(action: str, seconds: float, takes: tuple[str, Hop] | None = None) -> Task[str]:
    taken = None if takes is None else Input(action=takes[0], hop=takes[1])
    return Task(action=action, seconds=seconds, takes=taken)


def ring_run(drawn: tuple[Problem, Placement]) -> Timeline[Any]:
    return timeline(Ring.of(*drawn).tasks(12, num_groups=3))


def none_overlap(times: Iterable[tuple[float, float]]) -> bool:
    return all(before[1] <= after[0] for before, after in pairwise(sorted(times)))


def check_one_at_a_time(run: Timeline[Any]) -> None:
    for spans in run.stages:
        assert none_overlap((span.begin_s, span.end_s) for span in spans)
    times = defaultdict(list)
    for transfer in run.transfers:
        for name in transfer.hop.resources:
            times[name].append((transfer.begin_s, transfer.end_s))
    assert all(map(none_overlap, times.values()))


def check_begins(run: Timeline[Any]) -> None:
    """A frame begins when all that it occupies is left by those sent before, and never later."""
    ends = {span.action: span.end_s for spans in run.stages for span in spans}
    free: dict[str, float] = defaultdict(float)
    for transfer in run.transfers:
        sent = ends[transfer.action]
        assert transfer.begin_s == max([sent, *(free[name] for name in transfer.hop.resources)])
        free.update(dict.fromkeys(transfer.hop.resources, transfer.end_s))
        assert transfer.end_s == transfer.begin_s + transfer.hop.seconds
        assert transfer.arrive_s == transfer.end_s + transfer.hop.latency_s
    sent_s = [ends[transfer.action] for transfer in run.transfers]
    assert sent_s == sorted(sent_s)


@few
@given(any_training(shares=True))
def test_a_stage_and_a_resource_do_one_thing_at_a_time(training: Training) -> None:
    check_one_at_a_time(training.run().timeline)


@few
@given(RING)
def test_so_they_do_round_a_ring(drawn: tuple[Problem, Placement]) -> None:
    check_one_at_a_time(ring_run(drawn))


@few
@given(any_training(shares=True))
def test_frames_are_sent_at_once_and_served_in_turn(training: Training) -> None:
    check_begins(training.run().timeline)


@few
@given(RING)
def test_so_they_are_round_a_ring(drawn: tuple[Problem, Placement]) -> None:
    check_begins(ring_run(drawn))


def spans_of(run: Timeline[Action]) -> dict[Action, Span[Action]]:
    return {span.action: span for spans in run.stages for span in spans}


def inputs_of(action: Action, num_stages: int) -> list[str]:
    stage, microbatch = action.stage, action.microbatch
    if action.kind == "F":
        return [f"{stage - 1}F{microbatch}"] if stage else []
    return [f"{stage + 1}B{microbatch}"] if stage < num_stages - 1 else []


@few
@given(any_training(shares=True))
def test_an_action_begins_once_its_frame_is_there_and_its_stage_is_idle(
    training: Training,
) -> None:
    run = training.run().timeline
    arrive = {str(transfer.action): transfer.arrive_s for transfer in run.transfers}
    for spans in run.stages:
        idle_since = 0.0
        for span in spans:
            there = [arrive[name] for name in inputs_of(span.action, len(run.stages))]
            assert span.begin_s == max([idle_since, *there])
            idle_since = span.end_s


@few
@given(any_training(shares=True))
def test_every_action_runs_once_in_order_and_every_frame_is_sent_once(training: Training) -> None:
    run = training.run().timeline
    assert [[span.action for span in spans] for spans in run.stages] == [
        list(actions) for actions in training.schedule.stages
    ]
    sent = sorted(str(transfer.action) for transfer in run.transfers)
    wanted = [name for action in spans_of(run) for name in inputs_of(action, len(run.stages))]
    assert sent == sorted(wanted)


@few
@given(RING, st.integers(1, 4))
def test_round_a_ring_every_frame_goes_everywhere_once(
    drawn: tuple[Problem, Placement], num_groups: int
) -> None:
    run, num = timeline(Ring.of(*drawn).tasks(7, num_groups=num_groups)), len(drawn[1])
    visits = [[(span.action.stage, span.action.frame) for span in spans] for spans in run.stages]
    assert visits == [[(stage, frame) for frame in range(7)] for stage in range(num)]
    hops = {(stage, frame) for stage in range(num - 1) for frame in range(7)}
    home = {(num - 1, frame) for frame in range(max(7 - num_groups, 0))} if num > 1 else set()
    assert {(sent.action.stage, sent.action.frame) for sent in run.transfers} == hops | home
    assert len(run.transfers) == len(hops | home)


def test_a_frame_waits_for_all_that_it_occupies_and_holds_it_meanwhile() -> None:
    wide = Hop(seconds=1.0, latency_s=10.0, resources=("from a", "to c"))
    slow = Hop(seconds=5.0, resources=("to c",))
    late = Hop(seconds=1.0, resources=("from a",))
    run = timeline(
        [
            [task("x", 1.0)],
            [task("y", 2.0), task("z", 1.0)],
            [task("x'", 0.0, ("x", slow)), task("y'", 0.0, ("y", wide))],
            [task("z'", 0.5, ("z", late))],
        ]
    )
    assert run.transfers == (
        Transfer(action="x", hop=slow, begin_s=1.0, end_s=6.0, arrive_s=6.0),
        Transfer(action="y", hop=wide, begin_s=6.0, end_s=7.0, arrive_s=17.0),
        Transfer(action="z", hop=late, begin_s=7.0, end_s=8.0, arrive_s=8.0),
    )
    assert run.stages[3] == (Span(action="z'", begin_s=8.0, end_s=8.5),)
    assert run.end_s == 17.0


def test_of_results_that_come_at_once_the_first_stages_goes_first() -> None:
    shared = Hop(seconds=1.0, resources=("medium",))
    run = timeline(
        [
            [task("a", 1.0)],
            [task("b", 1.0)],
            [task("b'", 0.0, ("b", shared))],
            [task("a'", 0.0, ("a", shared))],
        ]
    )
    assert [transfer.action for transfer in run.transfers] == ["a", "b"]


def test_stages_that_wait_for_one_another_are_a_defect_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="wait for one another"):
        timeline([[task("a", 1.0, ("b", Hop()))], [task("b", 1.0, ("a", Hop()))]])


def test_nothing_takes_no_time() -> None:
    empty: Timeline[Hashable] = timeline([])
    assert empty.end_s == 0
