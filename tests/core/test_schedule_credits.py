"""Credits: never too few for any order of events, and never more than some order needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import pytest
from drawn_schedules import any_depths, any_order, inputs, of
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.schedule import Action, Kind, Schedule, backward, forward, gpipe, one_f_one_b
from edgepipe.core.schedule_credits import Credits, count_credits
from edgepipe.errors import UsageError


@dataclass(frozen=True)
class Moment:
    """Per stage, how many of its actions have begun, and how many are done."""

    begun: tuple[int, ...]
    done: tuple[int, ...]


def after(counts: tuple[int, ...], stage: int) -> tuple[int, ...]:
    return (*counts[:stage], counts[stage] + 1, *counts[stage + 1 :])


class Asynchronous:
    """Stages at any speed, event by event: an action begins, an action ends."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.start = Moment((0,) * schedule.num_stages, (0,) * schedule.num_stages)

    def _has(self, counts: tuple[int, ...], action: Action) -> bool:
        return action in self.schedule.stages[action.stage][: counts[action.stage]]

    def next_moments(self, now: Moment) -> Iterator[Moment]:
        for stage, actions in enumerate(self.schedule.stages):
            if now.done[stage] < now.begun[stage]:
                yield Moment(now.begun, after(now.done, stage))
            elif now.begun[stage] < len(actions):
                needs = inputs(actions[now.begun[stage]], self.schedule.num_stages)
                if all(self._has(now.done, need) for need in needs):
                    yield Moment(after(now.begun, stage), now.done)

    def lying(self, now: Moment) -> list[Credits]:
        return [
            Credits(
                forward=self._lying(now, Kind.FORWARD, stage, stage + 1),
                backward=self._lying(now, Kind.BACKWARD, stage + 1, stage),
            )
            for stage in range(self.schedule.num_stages - 1)
        ]

    def _lying(self, now: Moment, kind: Kind, sender: int, receiver: int) -> int:
        make = forward if kind is Kind.FORWARD else backward
        return sum(
            self._has(now.done, make(sender, number))
            and not self._has(now.begun, make(receiver, number))
            for number in range(self.schedule.num_microbatches)
        )


def every_moment(pipeline: Asynchronous) -> set[Moment]:
    seen, fresh = {pipeline.start}, [pipeline.start]
    while fresh:
        for then in pipeline.next_moments(fresh.pop()):
            if then not in seen:
                seen.add(then)
                fresh.append(then)
    return seen


def one_run(pipeline: Asynchronous, random: Random) -> Iterator[Moment]:
    now = pipeline.start
    while then := list(pipeline.next_moments(now)):
        now = random.choice(then)
        yield now


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        any_order(max_stages=3, max_microbatches=3), any_depths(max_stages=3, max_microbatches=3)
    )
)
def test_over_every_order_of_events_the_most_that_lie_is_the_credits(schedule: Schedule) -> None:
    pipeline = Asynchronous(schedule)
    lying = [pipeline.lying(now) for now in every_moment(pipeline)]
    most = tuple(
        Credits(
            forward=max(credit.forward for credit in boundary),
            backward=max(credit.backward for credit in boundary),
        )
        for boundary in zip(*lying, strict=True)
    )
    assert count_credits(schedule) == most


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(any_order(max_stages=5, max_microbatches=6), any_depths()),
    st.randoms(use_true_random=False),
)
def test_no_run_needs_more_credits_than_were_counted(schedule: Schedule, random: Random) -> None:
    pipeline, counted = Asynchronous(schedule), count_credits(schedule)
    for now in one_run(pipeline, random):
        for lying, credit in zip(pipeline.lying(now), counted, strict=True):
            assert lying.forward <= credit.forward
            assert lying.backward <= credit.backward
    assert now.done == tuple(map(len, schedule.stages))


@given(any_depths())
def test_1f1b_k_needs_the_depth_of_the_stage_above_both_ways(schedule: Schedule) -> None:
    depths = [schedule.inflight(stage) for stage in range(schedule.num_stages - 1)]
    assert count_credits(schedule) == tuple(Credits(forward=k, backward=k) for k in depths)


def test_a_strict_alternation_needs_one_credit() -> None:
    schedule = of("0F0 0B0 0F1 0B1", "1F0 1B0 1F1 1B1")
    assert count_credits(schedule) == (Credits(forward=1, backward=1),)


def test_frames_taken_in_another_order_are_counted_too() -> None:
    schedule = of("0F0 0F1 0F2 0B0 0B1 0B2", "1F2 1B2 1F0 1B0 1F1 1B1")
    assert count_credits(schedule) == (Credits(forward=3, backward=3),)


def test_one_stage_has_no_boundary() -> None:
    assert count_credits(gpipe(1, 4)) == ()


def test_a_large_schedule_is_counted() -> None:
    assert count_credits(one_f_one_b(16, 256))[0] == Credits(forward=16, backward=16)


def test_a_schedule_that_cannot_run_has_no_credits() -> None:
    with pytest.raises(UsageError, match="deadlock"):
        count_credits(of("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"))
