"""Schedules as values: how actions print, and what the generators make."""

from __future__ import annotations

import pytest
from drawn_schedules import all_actions, any_depths, can_finish, of
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.schedule import (
    MAX_MICROBATCHES,
    MAX_STAGES,
    Action,
    Kind,
    Schedule,
    ScheduleName,
    backward,
    forward,
    generate,
    gpipe,
    one_f_one_b,
    one_f_one_b_k,
    usable_depths,
)
from edgepipe.errors import UsageError


def test_an_action_prints_as_stage_kind_microbatch() -> None:
    assert [str(forward(0, 3)), str(backward(2, 1))] == ["0F3", "2B1"]
    assert Action.parse("12B345") == Action(stage=12, kind=Kind.BACKWARD, microbatch=345)


@given(stage=st.integers(0, 9999), microbatch=st.integers(0, 9999), kind=st.sampled_from(Kind))
def test_an_action_is_parsed_as_printed(stage: int, microbatch: int, kind: Kind) -> None:
    made = Action(stage=stage, kind=kind, microbatch=microbatch)
    assert Action.parse(str(made)) == made


@pytest.mark.parametrize(
    "text",
    ["", "F3", "0F", "0f3", "0X3", "-1F3", "0F-3", "00F3", "0F3 ", "0F3\n", "0F٣", "0F12345"],
)
def test_anything_else_is_no_action(text: str) -> None:
    with pytest.raises(UsageError, match="is not an action: write stage, F or B, and microbatch"):
        Action.parse(text)


def test_a_long_cell_is_cut_in_the_message() -> None:
    with pytest.raises(UsageError) as refused:
        Action.parse("x" * 10_000)
    assert len(str(refused.value)) < 150


def test_gpipe_runs_all_forwards_first() -> None:
    assert gpipe(2, 3) == of("0F0 0F1 0F2 0B0 0B1 0B2", "1F0 1F1 1F2 1B0 1B1 1B2")


def test_1f1b_holds_one_microbatch_less_on_each_stage() -> None:
    assert one_f_one_b(3, 4) == of(
        "0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3",
        "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3",
        "2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3",
    )


def test_1f1b_k_runs_as_far_ahead_as_it_is_told() -> None:
    assert one_f_one_b_k(2, 5, [4, 2]) == of(
        "0F0 0F1 0F2 0F3 0B0 0F4 0B1 0B2 0B3 0B4",
        "1F0 1F1 1B0 1F2 1B1 1F3 1B2 1F4 1B3 1B4",
    )


@given(num_stages=st.integers(1, 8), num_microbatches=st.integers(1, 12))
def test_the_classics_are_1f1b_k_with_depths_of_their_own(
    num_stages: int, num_microbatches: int
) -> None:
    full = [num_microbatches] * num_stages
    falling = [num_stages - stage for stage in range(num_stages)]
    assert gpipe(num_stages, num_microbatches) == one_f_one_b_k(num_stages, num_microbatches, full)
    assert one_f_one_b(num_stages, num_microbatches) == one_f_one_b_k(
        num_stages, num_microbatches, falling
    )


@given(any_depths())
def test_what_is_generated_has_every_action_once_and_finishes(schedule: Schedule) -> None:
    actions = [str(action) for stage in schedule.stages for action in stage]
    wanted = all_actions(schedule.num_stages, schedule.num_microbatches)
    assert sorted(actions) == sorted(map(str, wanted))
    assert can_finish(schedule)


@given(depths=st.lists(st.integers(1, 9), min_size=1, max_size=6), num=st.integers(1, 8))
def test_a_stage_holds_its_depth_where_the_stages_before_and_the_batch_allow(
    depths: list[int], num: int
) -> None:
    schedule = one_f_one_b_k(len(depths), num, depths)
    held = [schedule.inflight(stage) for stage in range(len(depths))]
    assert held == [min(*depths[: stage + 1], num) for stage in range(len(depths))]
    assert held == list(usable_depths(depths, num))


def test_a_depth_that_rises_would_deadlock_and_is_taken_as_the_depth_before() -> None:
    assert not can_finish(of("0F0 0F1 0B0 0F2 0B1 0B2", "1F0 1F1 1F2 1B0 1B1 1B2"))
    assert one_f_one_b_k(2, 3, [2, 3]) == one_f_one_b_k(2, 3, [2, 2])


@pytest.mark.parametrize("depths", [[], [1], [1, 1, 1], [2, 0], [-1, 2]])
def test_depths_are_one_for_each_stage_and_at_least_one(depths: list[int]) -> None:
    with pytest.raises(UsageError, match="wants 2 in-flight depths of at least 1"):
        one_f_one_b_k(2, 4, depths)


@pytest.mark.parametrize("make", [gpipe, one_f_one_b])
@pytest.mark.parametrize(
    ("num_stages", "num_microbatches"),
    [(0, 1), (-1, 1), (MAX_STAGES + 1, 1), (1, 0), (1, MAX_MICROBATCHES + 1), (10**9, 10**9)],
)
def test_a_size_out_of_bounds_is_refused_before_it_is_built(
    make: type, num_stages: int, num_microbatches: int
) -> None:
    with pytest.raises(UsageError, match="a schedule has 1 to"):
        make(num_stages, num_microbatches)


def test_a_schedule_is_found_by_name() -> None:
    assert generate(ScheduleName("gpipe"), 2, 3) == gpipe(2, 3)
    assert generate(ScheduleName("1f1b"), 2, 3) == one_f_one_b(2, 3)
    assert generate(ScheduleName("1f1b-k"), 2, 3, depths=[3, 1]) == one_f_one_b_k(2, 3, [3, 1])


def test_depths_belong_to_1f1b_k_and_only_there() -> None:
    with pytest.raises(UsageError, match="wants an in-flight depth for each stage"):
        generate(ScheduleName.ONE_F_ONE_B_K, 2, 3)
    with pytest.raises(UsageError, match="1f1b has depths of its own"):
        generate(ScheduleName.ONE_F_ONE_B, 2, 3, depths=[2, 1])
