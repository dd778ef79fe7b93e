"""Schedules at random, and what makes one valid, said anew without the code under test."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

from hypothesis import strategies as st

from edgepipe.core.schedule import (
    Action,
    Kind,
    Schedule,
    gpipe,
    one_f_one_b,
    one_f_one_b_k,
)
from edgepipe.core.schedule_csv import from_csv


def action(text: str) -> Action:
    return Action.parse(text)


def of(*stages: str) -> Schedule:
    """`of("0F0 0B0", "1F0 1B0")`, a string per stage."""
    return Schedule(stages=tuple(tuple(map(action, stage.split())) for stage in stages))


def inputs(wanted: Action, num_stages: int) -> list[Action]:
    """All that an action needs of any stage, in words of one's own."""
    number, microbatch = wanted.stage, wanted.microbatch
    if wanted.kind is Kind.FORWARD:
        return [action(f"{number - 1}F{microbatch}")] if number else []
    own = action(f"{number}F{microbatch}")
    return [own, action(f"{number + 1}B{microbatch}")] if number < num_stages - 1 else [own]


def all_actions(num_stages: int, num_microbatches: int) -> list[Action]:
    return [
        action(f"{stage}{kind}{microbatch}")
        for stage in range(num_stages)
        for kind in "FB"
        for microbatch in range(num_microbatches)
    ]


def can_finish(schedule: Schedule) -> bool:
    """Whether inputs and lists together have no circle, by the standard library's sorter."""
    graph = {
        each: [*inputs(each, schedule.num_stages), *actions[max(at - 1, 0) : at]]
        for actions in schedule.stages
        for at, each in enumerate(actions)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return False
    return True


@st.composite
def any_order(draw: st.DrawFn, *, max_stages: int = 4, max_microbatches: int = 4) -> Schedule:
    """Every valid schedule: one action after another of those whose inputs are done."""
    num_stages = draw(st.integers(1, max_stages))
    left = all_actions(num_stages, draw(st.integers(1, max_microbatches)))
    stages: list[list[Action]] = [[] for _ in range(num_stages)]
    while left:
        ready = [each for each in left if not set(inputs(each, num_stages)) & set(left)]
        chosen = draw(st.sampled_from(ready))
        left.remove(chosen)
        stages[chosen.stage].append(chosen)
    return Schedule(stages=tuple(map(tuple, stages)))


@st.composite
def any_depths(draw: st.DrawFn, *, max_stages: int = 6, max_microbatches: int = 12) -> Schedule:
    """1f1b-k with any depths, gpipe and 1f1b among them."""
    depths = draw(st.lists(st.integers(1, max_microbatches + 2), min_size=1, max_size=max_stages))
    return one_f_one_b_k(len(depths), draw(st.integers(1, max_microbatches)), depths)


BY_HAND = "0F0,0F1,0B1,0F2,0B0,0B2\n1F1,1B1,1F0,1F2,1B0,1B2\n"
PICTURED: dict[str, Schedule] = {
    "gpipe_3_4": gpipe(3, 4),
    "1f1b_4_8": one_f_one_b(4, 8),
    "1f1b_4_2": one_f_one_b(4, 2),
    "1f1b_1_3": one_f_one_b(1, 3),
    "1f1b-k_4_12_deeper": one_f_one_b_k(4, 12, [7, 5, 3, 1]),
    "1f1b-k_3_6_short_of_memory": one_f_one_b_k(3, 6, [2, 4, 1]),
    "by_hand_2_3": from_csv(BY_HAND),
}
"""By the names of their pictures in tests/golden/schedules."""
