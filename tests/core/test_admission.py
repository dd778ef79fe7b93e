"""Slots and the queue before them, as data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.admission import MAX_RETRY_AFTER_S, PATIENCE_S, FrontDesk, Refused
from edgepipe.core.frame import SequenceId


def ids(*numbers: int) -> list[SequenceId]:
    return [SequenceId(number) for number in numbers]


def test_slots_are_taken_first_come_first_served() -> None:
    desk = FrontDesk(num_slots=2, max_waiting=3, is_open=True)
    assert desk.arrive(ids(1), slot_s=1, now_s=0) == (1,)
    assert desk.arrive(ids(2, 3, 4), slot_s=1, now_s=0) == (2,)
    assert desk.arrive(ids(5), slot_s=1, now_s=0) == ()
    assert (desk.num_running, desk.num_waiting) == (2, 3)
    assert desk.leave(SequenceId(2)) == (3,)
    assert desk.leave(SequenceId(1)) == (4,)


def test_a_request_is_taken_whole_or_not_at_all() -> None:
    desk = FrontDesk(num_slots=2, max_waiting=1, is_open=True)
    assert desk.arrive(ids(1), slot_s=1, now_s=0) == (1,)
    assert isinstance(desk.arrive(ids(2, 3, 4), slot_s=1, now_s=0), Refused)
    assert (desk.num_running, desk.num_waiting) == (1, 0)
    assert desk.arrive(ids(5, 6), slot_s=1, now_s=0) == (5,)


def test_who_waits_may_go_and_what_has_left_may_leave_again() -> None:
    desk = FrontDesk(num_slots=1, max_waiting=2, is_open=True)
    desk.arrive(ids(1, 2, 3), slot_s=1, now_s=0)
    assert desk.leave(SequenceId(2)) == ()
    assert desk.leave(SequenceId(1)) == (3,)
    assert desk.leave(SequenceId(1)) == ()
    assert (desk.num_running, desk.num_waiting) == (1, 0)


@pytest.mark.parametrize(
    ("slot_s", "retry_after_s"), [(0.001, 1), (2, 6), (2.1, 7), (1e6, MAX_RETRY_AFTER_S)]
)
def test_a_refusal_says_when_the_queue_will_have_moved(slot_s: float, retry_after_s: int) -> None:
    desk = FrontDesk(num_slots=2, max_waiting=5, is_open=True)
    desk.arrive(ids(*range(7)), slot_s=slot_s, now_s=0)
    assert desk.arrive(ids(7), slot_s=slot_s, now_s=0) == Refused(retry_after_s=retry_after_s)


@given(
    num_slots=st.integers(1, 4),
    max_waiting=st.integers(0, 4),
    events=st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=60),
)
def test_no_slot_is_idle_while_somebody_waits_and_none_leaks(
    num_slots: int, max_waiting: int, events: list[tuple[bool, int]]
) -> None:
    desk = FrontDesk(num_slots=num_slots, max_waiting=max_waiting, is_open=True)
    here: list[SequenceId] = []
    running: list[SequenceId] = []
    number = 0
    for comes, count in events:
        if comes:
            new = ids(*range(number, number + count))
            number += count
            started = desk.arrive(new, slot_s=1, now_s=0)
            fits = len(here) + count <= num_slots + max_waiting
            assert isinstance(started, Refused) is not fits
            if not isinstance(started, Refused):
                here += new
                running += started
        elif here:
            gone = here.pop(count % len(here))
            if gone in running:
                running.remove(gone)
            running += desk.leave(gone)
        assert running == sorted(running)
        assert set(running) <= set(here)
        assert desk.num_running == len(running) == min(num_slots, len(here))
        assert desk.num_waiting == len(here) - len(running)


def test_nobody_starts_before_there_is_a_pipeline_and_who_waits_starts_in_order() -> None:
    desk = FrontDesk(num_slots=2, max_waiting=2)
    assert desk.arrive(ids(1, 2, 3), slot_s=1, now_s=0) == ()
    assert desk.open(2) == (1, 2)
    desk.hold()
    assert desk.leave(SequenceId(1)) == ()
    assert desk.arrive(ids(4), slot_s=1, now_s=0) == ()
    assert isinstance(desk.arrive(ids(5, 6), slot_s=1, now_s=0), Refused)
    assert desk.open(2) == (3,)


def test_the_next_pipeline_may_have_other_slots() -> None:
    desk = FrontDesk(num_slots=3, max_waiting=3, is_open=True)
    desk.arrive(ids(1, 2, 3, 4, 5), slot_s=1, now_s=0)
    desk.close(0)
    assert desk.leave(SequenceId(1)) == ()
    assert desk.open(1) == (), "two of the lost pipeline have not left yet"
    assert desk.leave(SequenceId(2)) == ()
    assert desk.leave(SequenceId(3)) == (4,)
    assert desk.running == {4}


def test_who_waits_for_a_pipeline_loses_patience_and_who_waits_for_a_slot_does_not() -> None:
    desk = FrontDesk(num_slots=1, max_waiting=3, is_open=True)
    desk.arrive(ids(1, 2), slot_s=1, now_s=0)
    desk.hold()
    assert desk.overdue(10 * PATIENCE_S) == ()
    desk.close(1000)
    desk.close(1100)
    desk.arrive(ids(3), slot_s=1, now_s=1050)
    desk.leave(SequenceId(1))
    assert desk.overdue(1000 + PATIENCE_S - 1) == ()
    assert desk.overdue(1000 + PATIENCE_S) == (2,)
    assert desk.overdue(1050 + PATIENCE_S) == (2, 3)
    assert desk.open(1) == (2,)
    assert desk.overdue(10_000) == ()
