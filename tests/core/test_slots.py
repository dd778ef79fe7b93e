"""Where a sequence sits: balance, and what a free slot's cache saves."""

from __future__ import annotations

import pytest

from edgepipe.core.frame import SequenceId
from edgepipe.core.slots import MEMBER_TOKENS, MIN_SHARED, Seat, Slots

LONG = tuple(range(500))


def four_slots(num_groups: int = 2) -> Slots:
    return Slots(num_slots=4, num_groups=num_groups)


def take(
    slots: Slots, sequence: int, prompt: tuple[int, ...] = (7,), *, reuse: bool = True
) -> Seat:
    return slots.take(SequenceId(sequence), prompt, reuse=reuse)


def test_sequences_spread_over_the_groups() -> None:
    slots = four_slots()
    assert [take(slots, sequence).slot for sequence in range(4)] == [0, 2, 1, 3]
    assert slots.is_full
    assert slots.members(0) == [0, 2]


def test_of_equal_slots_the_one_that_was_left_longest_ago_is_taken() -> None:
    slots = four_slots(num_groups=1)
    for sequence in range(4):
        take(slots, sequence)
    for slot in (2, 0, 3, 1):
        slots.free(slot, ())
    assert [take(slots, sequence).slot for sequence in range(4, 8)] == [2, 0, 3, 1]


def test_a_slot_that_was_never_used_is_taken_before_what_may_be_reused() -> None:
    slots = four_slots(num_groups=1)
    take(slots, 1, LONG)
    slots.free(0, LONG)
    assert take(slots, 2, (7, 8)) == Seat(slot=1, num_shared=0)
    assert take(slots, 3, LONG) == Seat(slot=0, num_shared=498)


@pytest.mark.parametrize(
    ("cached", "prompt", "num_shared"),
    [
        (LONG, LONG, 498),
        (LONG[:100], LONG, 100),
        (LONG, LONG[:100], 98),
        (LONG, (*LONG[:100], 7, 7, 7), 100),
        (LONG, (7, *LONG), 0),
        (LONG[:MIN_SHARED], LONG, MIN_SHARED),
        (LONG[: MIN_SHARED - 1], LONG, 0),
        (LONG, LONG[: MIN_SHARED + 1], 0),
        (LONG, (0,), 0),
        ((), LONG, 0),
    ],
)
def test_what_a_free_slot_saves(
    cached: tuple[int, ...], prompt: tuple[int, ...], num_shared: int
) -> None:
    slots = Slots(num_slots=1, num_groups=1)
    take(slots, 1)
    slots.free(0, cached)
    assert take(slots, 2, prompt) == Seat(slot=0, num_shared=num_shared)


def test_the_slot_that_saves_most_is_taken() -> None:
    slots = four_slots(num_groups=1)
    for sequence in range(3):
        take(slots, sequence)
    for slot, length in ((0, 50), (1, 200), (2, 100)):
        slots.free(slot, LONG[:length])
    assert take(slots, 4, LONG) == Seat(slot=1, num_shared=200)


@pytest.mark.parametrize(
    ("length", "seat"),
    [
        (MEMBER_TOKENS - 1, Seat(slot=3, num_shared=0)),
        (MEMBER_TOKENS, Seat(slot=3, num_shared=0)),
        (MEMBER_TOKENS + 1, Seat(slot=0, num_shared=MEMBER_TOKENS + 1)),
    ],
)
def test_balance_gives_way_to_a_prefix_that_is_worth_it(length: int, seat: Seat) -> None:
    """Group 0 has a member in slot 1, and slot 0 holds the prefix; group 1 is empty."""
    slots = four_slots()
    for sequence in range(3):
        take(slots, sequence)
    slots.free(0, LONG[:length])
    slots.free(2, (7,) * 30)
    assert take(slots, 4, LONG) == seat


def test_nothing_is_shared_where_reuse_is_not_wanted() -> None:
    slots = Slots(num_slots=1, num_groups=1)
    take(slots, 1)
    slots.free(0, LONG)
    assert take(slots, 2, LONG, reuse=False) == Seat(slot=0, num_shared=0)
