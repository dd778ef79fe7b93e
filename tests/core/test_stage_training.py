"""What a stage does for its orders, whatever the order in which its inputs arrive."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.order import Input, Need, Order, Seat, Task, Work
from edgepipe.core.schedule import Action, Kind, Schedule, one_f_one_b_k
from edgepipe.core.stage_training import MAX_AHEAD, StageTraining
from edgepipe.core.training import Microbatch, Purpose
from edgepipe.errors import WireError


def order(
    number: int, schedule: Schedule, stage: int, *, purpose: Purpose = Purpose.TRAIN
) -> Order:
    actions = schedule.stages[stage]
    if purpose is Purpose.EVALUATE:
        actions = tuple(action for action in actions if action.kind is Kind.FORWARD)
    return Order(
        number=number,
        step=number,
        purpose=purpose,
        actions=actions,
        microbatches=tuple(
            Microbatch(step=number, index=index, lengths=(3, 2))
            for index in range(schedule.num_microbatches)
        ),
        loss_weight=1.0,
    )


def seat(stage: int, num_stages: int, *, exchanges: bool = False) -> Seat:
    return Seat(stage=stage, num_stages=num_stages, exchanges=exchanges)


def told(work: Sequence[Work]) -> str:
    """`0F0 0B0 settle conclude`."""
    return " ".join(str(each.action or each.task) for each in work)


def run(state: StageTraining) -> list[Work]:
    """All that can be done now."""
    done: list[Work] = []
    while (work := state.next()) is not None:
        done.append(work)
        state.finish(work)
    return done


SCHEDULE = one_f_one_b_k(3, 2, (2, 2, 1))


@pytest.mark.parametrize(
    ("stage", "exchanges", "purpose", "expected"),
    [
        (0, False, Purpose.TRAIN, "0F0 0F1 0B0 0B1 settle conclude"),
        (1, False, Purpose.EVALUATE, "1F0 1F1 settle"),
        (2, False, Purpose.TRAIN, "2F0 2B0 2F1 2B1 settle conclude"),
        (0, True, Purpose.TRAIN, "take rows 0F0 0F1 0B0 0B1 give gradient settle conclude"),
        (1, True, Purpose.TRAIN, "1F0 1F1 1B0 1B1 settle conclude"),
        (2, True, Purpose.TRAIN, "give rows 2F0 2B0 2F1 2B1 add gradient settle conclude"),
        (0, True, Purpose.EVALUATE, "take rows 0F0 0F1 settle"),
        (2, True, Purpose.EVALUATE, "give rows 2F0 2F1 settle"),
    ],
)
def test_an_order_is_a_list_of_work(
    stage: int, exchanges: bool, purpose: Purpose, expected: str
) -> None:
    where = seat(stage, 3, exchanges=exchanges)
    assert told(list(where.work(order(1, SCHEDULE, stage, purpose=purpose)))) == expected


def test_the_only_stage_needs_tokens_and_targets() -> None:
    schedule = one_f_one_b_k(1, 1, (1,))
    assert seat(0, 1).needs(order(1, schedule, 0)) == {
        Need(Input.TOKENS, 0),
        Need(Input.TARGETS, 0),
        Need(Input.DECISION),
    }


@given(data=st.data(), stage=st.integers(0, 2), exchanges=st.booleans())
def test_inputs_may_come_in_any_order(data: st.DataObject, stage: int, exchanges: bool) -> None:
    """Orders and inputs interleaved at random: the work of each order is done once, in order."""
    state = StageTraining(seat=seat(stage, 3, exchanges=exchanges))
    orders = [order(number, SCHEDULE, stage) for number in (1, 2)]
    arrivals = [(each.number, need) for each in orders for need in state.seat.needs(each)]
    shuffled = data.draw(st.permutations(arrivals))
    places = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), min_size=2, max_size=2)))
    done: list[Work] = []
    for at in range(len(shuffled) + 1):
        for each, place in zip(orders, places, strict=True):
            if place == at:
                state.give(each)
                done += run(state)
        if at < len(shuffled):
            state.arrive(*shuffled[at])
            done += run(state)
    expected = [work for each in orders for work in state.seat.work(each)]
    assert told(done) == told(expected)
    assert state.inflight == 0


def test_in_flight_microbatches_are_counted_per_order() -> None:
    state = StageTraining(seat=seat(2, 3))
    state.give(order(1, SCHEDULE, 2))
    for microbatch in range(2):
        state.arrive(1, Need(Input.ACTIVATIONS, microbatch))
        state.arrive(1, Need(Input.TARGETS, microbatch))
    run(state)
    assert state.most_inflight == 1 == SCHEDULE.inflight(2)


def test_nothing_is_concluded_while_what_was_trained_is_read() -> None:
    state = StageTraining(seat=seat(0, 1))
    state.give(order(1, one_f_one_b_k(1, 1, (1,)), 0))
    for need in (Need(Input.TOKENS), Need(Input.TARGETS), Need(Input.DECISION)):
        state.arrive(1, need)
    state.held = True
    assert told(run(state)) == "0F0 0B0 settle"
    state.held = False
    assert [work.task for work in run(state)] == [Task.CONCLUDE]


def actions(text: str) -> tuple[Action, ...]:
    return tuple(map(Action.parse, text.split()))


@pytest.mark.parametrize(
    "wrong", ["1F0 1B0", "1F0 1F1 1B0", "1B0 1F0 1F1 1B1", "0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B0"]
)
def test_actions_that_are_not_the_stages_own_are_refused(wrong: str) -> None:
    state = StageTraining(seat=seat(1, 3))
    bad = order(1, SCHEDULE, 1)
    with pytest.raises(WireError, match="stage 1"):
        state.give(
            Order(
                number=1,
                step=1,
                purpose=Purpose.TRAIN,
                actions=actions(wrong),
                microbatches=bad.microbatches,
                loss_weight=1.0,
            )
        )


def test_what_nobody_waits_for_is_refused() -> None:
    state = StageTraining(seat=seat(1, 3))
    state.give(order(1, SCHEDULE, 1))
    with pytest.raises(WireError, match="no use for it"):
        state.arrive(1, Need(Input.TARGETS, 0))
    state.arrive(1, Need(Input.ACTIVATIONS, 0))
    with pytest.raises(WireError, match="twice"):
        state.arrive(1, Need(Input.ACTIVATIONS, 0))
    with pytest.raises(WireError, match="order 0"):
        state.arrive(0, Need(Input.ACTIVATIONS, 0))
    with pytest.raises(WireError, match=f"order {MAX_AHEAD + 2}"):
        state.arrive(MAX_AHEAD + 2, Need(Input.ACTIVATIONS, 0))


def test_an_input_that_came_before_its_order_is_held_against_it() -> None:
    state = StageTraining(seat=seat(1, 3))
    state.arrive(1, Need(Input.ACTIVATIONS, 5))
    with pytest.raises(WireError, match="no use for it"):
        state.give(order(1, SCHEDULE, 1))


def test_orders_count_up_and_few_come_ahead() -> None:
    state = StageTraining(seat=seat(1, 3))
    with pytest.raises(WireError, match="where 1 was due"):
        state.give(order(2, SCHEDULE, 1))
    for number in range(1, MAX_AHEAD + 2):
        state.give(order(number, SCHEDULE, 1))
    with pytest.raises(WireError, match="ahead"):
        state.give(order(MAX_AHEAD + 2, SCHEDULE, 1))
