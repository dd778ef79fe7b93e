"""Timelines keep the rules: order, inputs, no more than anything can, no needless waiting."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from itertools import pairwise, product
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


def check_stages(run: Timeline[Any]) -> None:
    for spans in run.stages:
        assert none_overlap((span.begin_s, span.end_s) for span in spans)


def check_loads(run: Timeline[Any]) -> None:
    """No resource carries more, within any time, than it can."""
    carried = defaultdict(list)
    for transfer in run.transfers:
        for name, seconds in transfer.hop.occupied.items():
            carried[name].append((transfer.begin_s, transfer.end_s, seconds))
    for found in carried.values():
        for begin, end in product({each[0] for each in found}, {each[1] for each in found}):
            within = sum(each[2] for each in found if begin <= each[0] and each[1] <= end)
            assert within <= max(0.0, end - begin) * (1 + 1e-9) + 1e-9


def check_begins(run: Timeline[Any], ways: Mapping[Any, tuple[int, int]]) -> None:
    """A frame begins when what was sent before it the same way has left, and never later."""
    ends = {span.action: span.end_s for spans in run.stages for span in spans}
    free: dict[tuple[int, int], float] = defaultdict(float)
    for transfer in run.transfers:
        way = ways[transfer.action]
        assert transfer.begin_s == max(ends[transfer.action], free[way])
        free[way] = transfer.end_s
        assert transfer.arrive_s == transfer.end_s + transfer.hop.latency_s
        alone_s, took_s = transfer.hop.seconds, transfer.end_s - transfer.begin_s
        met = any(meet(transfer, other) for other in run.transfers if other is not transfer)
        assert took_s >= alone_s * (1 - 1e-9) - 1e-9
        assert met or took_s == pytest.approx(alone_s)


def meet(one: Transfer[Any], other: Transfer[Any]) -> bool:
    """Whether both were under way at one time, and needed something that both need."""
    together = one.begin_s < other.end_s and other.begin_s < one.end_s
    return together and not one.hop.shares.keys().isdisjoint(other.hop.shares)


def ways_of(run: Timeline[Action]) -> dict[Any, tuple[int, int]]:
    return {
        action: (action.stage, action.stage + (1 if action.kind == "F" else -1))
        for action in spans_of(run)
    }


@few
@given(any_training(shares=True))
def test_a_stage_does_one_thing_at_a_time_and_a_resource_no_more_than_it_can(
    training: Training,
) -> None:
    run = training.run().timeline
    check_stages(run)
    check_loads(run)


@few
@given(RING)
def test_so_they_do_round_a_ring(drawn: tuple[Problem, Placement]) -> None:
    run = ring_run(drawn)
    check_stages(run)
    check_loads(run)


@few
@given(any_training(shares=True))
def test_frames_are_sent_at_once_and_in_order(training: Training) -> None:
    run = training.run().timeline
    check_begins(run, ways_of(run))


@few
@given(RING)
def test_so_they_are_round_a_ring(drawn: tuple[Problem, Placement]) -> None:
    run = ring_run(drawn)
    num = len(run.stages)
    ways = {
        span.action: (stage, (stage + 1) % num)
        for stage, spans in enumerate(run.stages)
        for span in spans
    }
    check_begins(run, ways)


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


def over(num_bytes: float, latency_s: float = 0.0, **occupied: float) -> Hop:
    return Hop(num_bytes=num_bytes, latency_s=latency_s, occupied=occupied)


def test_frames_that_need_one_nic_share_it_and_the_last_one_has_it_alone() -> None:
    long, short = over(4, to_c=4.0), over(1, latency_s=10.0, to_c=1.0)
    run = timeline(
        [
            [task("x", 1.0)],
            [task("y", 2.0), task("z", 1.0)],
            [task("x'", 0.0, ("x", long)), task("y'", 0.0, ("y", short))],
            [task("z'", 0.5, ("z", over(1, from_a=1.0)))],
        ]
    )
    assert run.transfers == (
        Transfer(action="x", hop=long, begin_s=1.0, end_s=6.0, arrive_s=6.0),
        Transfer(action="y", hop=short, begin_s=2.0, end_s=4.0, arrive_s=14.0),
        Transfer(action="z", hop=over(1, from_a=1.0), begin_s=3.0, end_s=4.0, arrive_s=4.0),
    )
    assert run.stages[3] == (Span(action="z'", begin_s=4.0, end_s=4.5),)
    assert run.end_s == 14.0


def test_frames_from_one_stage_to_another_go_one_by_one() -> None:
    shared, other = over(1, medium=1.0), over(1, medium=1.0)
    run = timeline(
        [
            [task("a", 1.0), task("b", 0.0)],
            [task("c", 1.0)],
            [task("a'", 0.0, ("a", shared)), task("b'", 0.0, ("b", shared))],
            [task("c'", 0.0, ("c", other))],
        ]
    )
    times = {transfer.action: (transfer.begin_s, transfer.end_s) for transfer in run.transfers}
    assert times == {"a": (1.0, 3.0), "c": (1.0, 3.0), "b": (3.0, 4.0)}


def test_stages_that_wait_for_one_another_are_a_defect_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="wait for one another"):
        timeline([[task("a", 1.0, ("b", Hop()))], [task("b", 1.0, ("a", Hop()))]])


def test_nothing_takes_no_time() -> None:
    empty: Timeline[Hashable] = timeline([])
    assert empty.end_s == 0
