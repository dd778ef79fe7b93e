"""Stage 0's decisions, one frame after another."""

from __future__ import annotations

import pytest
from batching_frames import admit, batching, frame, home, next_frame

from edgepipe.core.frame import SequenceId
from edgepipe.errors import WireError


def test_a_prompt_goes_out_in_chunks_that_do_not_wait_for_one_another() -> None:
    state = batching(prefill_chunk=4)
    admit(state, 7, 10)
    assert next_frame(state) == "0: 7@0[0:4]=70,71,72,73"
    assert next_frame(state) == "0: 7@0[4:8]=74,75,76,77"
    assert next_frame(state) == "0: 7@0[8:10]=78,79"
    assert next_frame(state) is None


@pytest.mark.parametrize(
    ("prefill_chunk", "prompt_length", "chunks"),
    [
        (4, 1, [1]),
        (4, 4, [4]),
        (4, 5, [3, 2]),
        (4, 6, [4, 2]),
        (4, 9, [4, 3, 2]),
        (3, 4, [2, 2]),
        (2, 3, [1, 2]),
        (1, 3, [1, 1, 1]),
    ],
)
def test_no_last_chunk_is_a_single_row_where_that_can_be_helped(
    prefill_chunk: int, prompt_length: int, chunks: list[int]
) -> None:
    state = batching(prefill_chunk=prefill_chunk)
    admit(state, 7, prompt_length)
    works = [work for _ in range(prompt_length) if (work := state.next())]
    assert [work.spans[0].count for work in works] == chunks


def test_each_token_that_comes_home_is_sent_at_the_position_it_was_sampled_for() -> None:
    state = batching()
    admit(state, 7, 2)
    assert next_frame(state) == "0: 7@0[0:2]=70,71"
    home(state, 7, 2, token=33)
    assert next_frame(state) == "0: 7@0[2:3]=33"
    assert next_frame(state) is None
    home(state, 7, 3, token=44)
    assert next_frame(state) == "0: 7@0[3:4]=44"


def test_nothing_is_sent_before_anything_is_admitted_and_after_everything_ended() -> None:
    state = batching()
    assert state.next() is None
    admit(state, 7, 1)
    assert next_frame(state) == "0: 7@0[0:1]=70"
    home(state, 7, 1, last=True)
    assert state.next() is None


def test_a_group_decodes_in_lockstep_and_waits_for_its_last_member() -> None:
    state = batching(num_slots=2)
    admit(state, 1, 1)
    admit(state, 2, 1)
    assert [next_frame(state), next_frame(state)] == ["0: 1@0[0:1]=10", "0: 2@1[0:1]=20"]
    home(state, 1, 1, token=3)
    assert state.next() is None
    home(state, 2, 1, token=4)
    assert next_frame(state) == "0: 1@0[1:2]=3 2@1[1:2]=4"


def test_a_group_of_rows_of_unequal_length_goes_on_without_the_one_that_ended() -> None:
    state = batching(num_slots=2)
    admit(state, 1, 1)
    admit(state, 2, 3)
    next_frame(state)
    next_frame(state)
    home(state, 1, 1)
    home(state, 2, 3)
    assert next_frame(state) == "0: 1@0[1:2]=5 2@1[3:4]=5"
    home(state, 1, 2, last=True)
    home(state, 2, 4)
    assert next_frame(state) == "0: 2@1[4:5]=5"


def test_few_sequences_spread_over_the_groups_so_that_as_many_stages_are_busy() -> None:
    state = batching(num_slots=6, num_groups=3)
    for sequence in range(1, 7):
        admit(state, sequence, 1)
    frames = [next_frame(state) for _ in range(6)]
    assert frames == [
        "0: 1@0[0:1]=10",
        "1: 2@2[0:1]=20",
        "2: 3@4[0:1]=30",
        "0: 4@1[0:1]=40",
        "1: 5@3[0:1]=50",
        "2: 6@5[0:1]=60",
    ]


def test_groups_take_turns() -> None:
    state = batching(num_slots=3, num_groups=3)
    for sequence in (1, 2, 3):
        admit(state, sequence, 1)
        next_frame(state)
    for position in (1, 2):
        for sequence in (3, 2, 1):
            home(state, sequence, position)
        groups = [work.group for _ in range(3) if (work := state.next())]
        assert groups == [0, 1, 2]


@pytest.mark.parametrize(
    ("num_slots", "num_groups", "groups"),
    [(1, 1, [0]), (4, 2, [0, 0, 1, 1]), (5, 2, [0, 0, 0, 1, 1]), (5, 4, [0, 0, 1, 1, 2])],
)
def test_every_slot_belongs_to_one_group(
    num_slots: int, num_groups: int, groups: list[int]
) -> None:
    state = batching(num_slots=num_slots, num_groups=num_groups)
    for sequence in range(num_slots):
        admit(state, sequence, 1)
    works = [work for _ in range(num_slots) if (work := state.next())]
    assert sorted((work.spans[0].slot, work.group) for work in works) == list(enumerate(groups))


def test_a_new_prompt_is_slotted_between_groups_that_are_always_home() -> None:
    """With as many groups as stages, and stage 0 the slowest of them, some group always is."""
    state = batching(num_slots=3, num_groups=2, prefill_chunk=1)
    for sequence in (1, 2):
        admit(state, sequence, 1)
    for _ in (1, 2):
        next_frame(state)
    for sequence in (1, 2):
        home(state, sequence, 1)
    admit(state, 3, 3)
    frames = []
    for _ in range(7):
        work = state.next()
        assert work is not None
        frames.append(frame(work))
        if work.sequences != (3,):
            home(state, work.sequences[0], work.spans[0].end)
    assert frames == [
        "0: 1@0[1:2]=5",
        "0: 3@1[0:1]=30",
        "1: 2@2[1:2]=5",
        "0: 3@1[1:2]=31",
        "0: 1@0[2:3]=5",
        "0: 3@1[2:3]=32",
        "1: 2@2[2:3]=5",
    ]


def test_a_group_that_is_home_is_chosen_while_another_is_computed() -> None:
    state = batching(num_slots=2, num_groups=2)
    for sequence in (1, 2):
        admit(state, sequence, 2)
        assert frame(state.next(ahead=True)) is None
        assert next_frame(state) is not None
    home(state, 1, 2)
    home(state, 2, 2)
    assert next_frame(state) == "0: 1@0[2:3]=5"
    assert frame(state.next(ahead=True)) == "1: 2@1[2:3]=5"
    assert frame(state.next(ahead=True)) is None


def test_nothing_is_chosen_ahead_while_a_chunk_of_a_prompt_is_due() -> None:
    state = batching(num_slots=3, num_groups=3)
    for sequence in (1, 2):
        admit(state, sequence, 2)
        assert next_frame(state) is not None
    for sequence in (1, 2):
        home(state, sequence, 2)
    assert next_frame(state) == "0: 1@0[2:3]=5"
    admit(state, 3, 2)
    assert frame(state.next(ahead=True)) is None
    assert next_frame(state) == "2: 3@2[0:2]=30,31"
    assert frame(state.next(ahead=True)) == "1: 2@1[2:3]=5"


def test_a_sequence_waits_for_a_slot_and_gets_the_first_that_is_free() -> None:
    state = batching(num_slots=1)
    for sequence in (1, 2, 3):
        admit(state, sequence, 1)
    assert next_frame(state) == "0: 1@0[0:1]=10"
    assert state.next() is None
    home(state, 1, 1, last=True)
    assert next_frame(state) == "0: 2@0[0:1]=20"
    home(state, 2, 1, last=True)
    assert next_frame(state) == "0: 3@0[0:1]=30"


def test_a_cancelled_sequence_frees_its_slot_at_once_and_its_token_is_ignored() -> None:
    state = batching(num_slots=1)
    admit(state, 1, 1)
    admit(state, 2, 2)
    next_frame(state)
    state.cancel(SequenceId(1))
    assert next_frame(state) == "0: 2@0[0:2]=20,21"
    home(state, 1, 1)
    assert state.next() is None
    home(state, 2, 2)
    assert next_frame(state) == "0: 2@0[2:3]=5"


def test_the_rest_of_a_cancelled_prompt_is_not_sent() -> None:
    state = batching(prefill_chunk=1)
    admit(state, 1, 3)
    next_frame(state)
    state.cancel(SequenceId(1))
    assert state.next() is None


def test_a_sequence_may_be_cancelled_while_it_waits_and_when_nobody_knows_it() -> None:
    state = batching(num_slots=1)
    for sequence in (1, 2, 3):
        admit(state, sequence, 1)
    next_frame(state)
    state.cancel(SequenceId(2))
    state.cancel(SequenceId(99))
    home(state, 1, 1, last=True)
    assert next_frame(state) == "0: 3@0[0:1]=30"


def test_a_cancelled_member_holds_nobody_up() -> None:
    state = batching(num_slots=2)
    admit(state, 1, 1)
    admit(state, 2, 1)
    next_frame(state)
    next_frame(state)
    home(state, 1, 1)
    state.cancel(SequenceId(2))
    assert next_frame(state) == "0: 1@0[1:2]=5"


@pytest.mark.parametrize("waits", [False, True])
def test_a_sequence_is_admitted_once(waits: bool) -> None:
    state = batching(num_slots=1)
    if waits:
        admit(state, 1, 1)
    admit(state, 7, 1)
    with pytest.raises(WireError, match=r"^sequence 7 is admitted already$"):
        admit(state, 7, 2)


@pytest.mark.parametrize("position", [0, 1, 3, 4])
def test_a_token_of_a_position_that_is_not_due_is_no_valid_frame(position: int) -> None:
    state = batching(num_slots=1, prefill_chunk=2)
    admit(state, 7, 2)
    next_frame(state)
    with pytest.raises(WireError, match=f"position {position} of sequence 7 .* position 2 was due"):
        home(state, 7, position)


def test_a_token_that_comes_home_twice_or_too_early_is_no_valid_frame() -> None:
    state = batching(prefill_chunk=2)
    admit(state, 7, 4)
    next_frame(state)
    with pytest.raises(WireError):
        home(state, 7, 2)
    next_frame(state)
    home(state, 7, 4)
    with pytest.raises(WireError):
        home(state, 7, 4)


def test_who_waits_is_bounded() -> None:
    state = batching(num_slots=1, max_waiting=2)
    for sequence in (1, 2, 3):
        admit(state, sequence, 1)
    with pytest.raises(WireError, match=r"^sequence 4 cannot wait: 2 sequences do already$"):
        admit(state, 4, 1)
    state.cancel(SequenceId(2))
    admit(state, 4, 1)
    assert next_frame(state) == "0: 1@0[0:1]=10"
    state.cancel(SequenceId(1))
    assert next_frame(state) == "0: 3@0[0:1]=30"


def test_who_runs_who_waits_and_whose_token_is_awaited() -> None:
    def counts() -> tuple[int, int, int]:
        return state.num_running, state.num_waiting, state.num_in_flight

    state = batching(num_slots=1)
    admit(state, 7, 6)
    admit(state, 8, 2)
    assert counts() == (1, 1, 0)
    state.next()
    assert counts() == (1, 1, 0), "the first chunk of two brings no token home"
    state.next()
    assert counts() == (1, 1, 1)
    home(state, 7, 6, last=True)
    assert counts() == (1, 0, 0)
    state.cancel(SequenceId(8))
    assert counts() == (0, 0, 0)
