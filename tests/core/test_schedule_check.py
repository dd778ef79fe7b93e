"""The validator: what can be run passes, and what cannot is named."""

from __future__ import annotations

from random import Random

import pytest
from drawn_schedules import any_depths, any_order, can_finish, of
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.schedule import MAX_STAGES, Action, Schedule
from edgepipe.core.schedule_check import check
from edgepipe.errors import UsageError

GOOD = ("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1")


def fault(schedule: Schedule) -> str | None:
    try:
        check(schedule)
    except UsageError as error:
        return str(error)
    return None


def with_stage(schedule: Schedule, stage: int, actions: list[Action]) -> Schedule:
    stages = list(schedule.stages)
    stages[stage] = tuple(actions)
    return Schedule(stages=tuple(stages))


@st.composite
def place(draw: st.DrawFn, schedule: Schedule) -> tuple[int, int]:
    """A stage, and a place in its list."""
    stage = draw(st.integers(0, schedule.num_stages - 1))
    return stage, draw(st.integers(0, len(schedule.stages[stage]) - 1))


valid = st.one_of(any_order(), any_depths())


@given(valid)
def test_every_schedule_that_finishes_passes(schedule: Schedule) -> None:
    check(schedule)


@given(valid, st.data())
def test_a_dropped_action_is_named(schedule: Schedule, data: st.DataObject) -> None:
    stage, at = data.draw(place(schedule))
    actions = list(schedule.stages[stage])
    dropped = actions.pop(at)
    found = fault(with_stage(schedule, stage, actions))
    assert found is not None
    assert found.startswith(f"stage {stage} lacks {dropped}: each of the ")


@given(valid, st.data())
def test_a_doubled_action_is_named(schedule: Schedule, data: st.DataObject) -> None:
    stage, at = data.draw(place(schedule))
    actions = list(schedule.stages[stage])
    doubled = actions[at]
    actions.insert(data.draw(st.integers(0, len(actions))), doubled)
    found = fault(with_stage(schedule, stage, actions))
    assert found is not None
    assert found.startswith(f"stage {stage} runs {doubled} 2 times: each of the ")


@given(valid, st.data())
def test_two_actions_swapped_pass_or_are_named(schedule: Schedule, data: st.DataObject) -> None:
    stage, at = data.draw(place(schedule))
    other = data.draw(st.integers(0, len(schedule.stages[stage]) - 1))
    actions = list(schedule.stages[stage])
    actions[at], actions[other] = actions[other], actions[at]
    swapped = with_stage(schedule, stage, actions)
    found = fault(swapped)
    assert (found is None) == can_finish(swapped)
    if found is not None:
        assert "deadlock, so reorder one" in found or f"stage {stage} runs {stage}B" in found


@given(any_order(), st.randoms(use_true_random=False))
def test_lists_shuffled_pass_exactly_where_they_can_finish(
    schedule: Schedule, random: Random
) -> None:
    stages = [list(actions) for actions in schedule.stages]
    for actions in stages:
        random.shuffle(actions)
        actions.sort(key=lambda action: action.kind, reverse=random.random() < 0.9)
    shuffled = Schedule(stages=tuple(map(tuple, stages)))
    assert (fault(shuffled) is None) == can_finish(shuffled)


def test_a_deadlock_is_told_as_a_chain_of_waits() -> None:
    schedule = of("0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1F1 1F2 1B0 1B1 1B2")
    assert fault(schedule) == (
        "stages 0 and 1 deadlock, so reorder one of them: 0B0 waits for 1B0, "
        "which stage 1 runs after 1F2, which waits for 0F2, which stage 0 runs after 0B0"
    )


def test_stages_that_only_wait_for_the_deadlock_are_left_out_of_it() -> None:
    schedule = of("0F0 0B0 0F1 0B1", "1F0 1B0 1F1 1B1", "2F0 2F1 2B0 2B1", "3F0 3B0 3F1 3B1")
    assert fault(schedule) == (
        "stages 1 and 2 deadlock, so reorder one of them: 1B0 waits for 2B0, "
        "which stage 2 runs after 2F1, which waits for 1F1, which stage 1 runs after 1B0"
    )


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (("0F0 0F1 0B0", GOOD[1]), "stage 0 lacks 0B1: each of the 2 microbatches wants"),
        ((GOOD[0], "1B0 1F1 1B1"), "stage 1 lacks 1F0: each of the 2 microbatches wants"),
        ((GOOD[0], ""), "stage 1 lacks 1F0: each of the 2 microbatches wants"),
        (("0F0 0F2 0B0 0B2",), "stage 0 lacks 0F1: each of the 3 microbatches wants"),
        ((GOOD[0], "1F0 1B0 1F0 1F1 1B1 1F0"), "stage 1 runs 1F0 3 times: each"),
        ((GOOD[0], "1B0 1F0 1F1 1B1"), "stage 1 runs 1B0 before 1F0: put the backward after"),
        (
            (GOOD[0], "1F0 1B0 0F1 1F1 1B1"),
            "stage 1 cannot run 0F1: give it only its own actions, 1F0 to 1B1",
        ),
        ((), f"a schedule has 1 to {MAX_STAGES} stages, not 0"),
        (("", ""), "a schedule has 1 to 1024 microbatches, not 0"),
        (("0F9999",), "a schedule has 1 to 1024 microbatches, not 10000"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(stages: tuple[str, ...], sentence: str) -> None:
    found = fault(of(*stages))
    assert found is not None
    assert found.startswith(sentence)
