"""Guesses that stage 0 sends along, and what becomes of them."""

from __future__ import annotations

import pytest
from batching_frames import LOOP, admit, batching, drafting, frame, home, next_frame

from edgepipe.core.frame import SequenceId
from edgepipe.errors import WireError


def test_what_came_before_is_guessed_and_one_turn_brings_all_that_is_right() -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    work = state.next()
    assert frame(work) == "0: 7@0[7:12]=2,3,1,2,3"
    assert work is not None
    assert work.drafts == (3, 1, 2, 3)
    for position, token in enumerate((3, 1, 2, 3, 9), start=8):
        assert state.next() is None, "the frame is not home before its last token"
        home(state, 7, position, token)
    work = state.next()
    assert frame(work) == "0: 7@0[12:13]=9", "nothing ever followed 9"
    assert work is not None
    assert work.drafts == ()


@pytest.mark.parametrize("num_right", [0, 1, 2, 3])
def test_the_next_span_truncates_what_was_guessed_wrongly(num_right: int) -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    state.next()
    for position, token in enumerate([3, 1, 2, 3][:num_right], start=8):
        home(state, 7, position, token)
    home(state, 7, 8 + num_right, token=9)
    assert next_frame(state) == f"0: 7@0[{8 + num_right}:{9 + num_right}]=9"


def test_a_token_behind_a_wrong_guess_is_no_valid_frame() -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    state.next()
    home(state, 7, 8, token=9)
    with pytest.raises(WireError, match="position 9 of sequence 7 came back where position 9"):
        home(state, 7, 9, token=1)


def test_more_tokens_than_rows_are_no_valid_frame() -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    state.next()
    for position, token in enumerate((3, 1, 2, 3, 1), start=8):
        home(state, 7, position, token)
    with pytest.raises(WireError):
        home(state, 7, 13, token=2)


def test_a_sequence_that_ends_within_its_guesses_frees_its_slot() -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    state.next()
    home(state, 7, 8, token=3)
    home(state, 7, 9, token=1, last=True)
    admit(state, 8, 2)
    assert next_frame(state) == "0: 8@0[0:2]=80,81"


def test_a_sequence_may_be_cancelled_with_guesses_in_the_ring() -> None:
    state = drafting()
    home(state, 7, 7, token=2)
    state.next()
    home(state, 7, 8, token=3)
    state.cancel(SequenceId(7))
    home(state, 7, 9, token=1)
    assert state.next() is None
    admit(state, 8, 2)
    assert next_frame(state) == "0: 8@0[0:2]=80,81"


@pytest.mark.parametrize(
    ("max_tokens", "num_drafts"), [(1, None), (2, 0), (3, 1), (4, 2), (6, 4), (9, 4)]
)
def test_no_more_is_guessed_than_may_be_sampled(max_tokens: int, num_drafts: int | None) -> None:
    state = batching(prefill_chunk=8, max_draft=16)
    state.admit(SequenceId(7), LOOP, max_tokens=max_tokens)
    state.next()
    home(state, 7, 7, token=2, last=max_tokens == 1)
    work = state.next()
    assert (None if work is None else len(work.drafts)) == num_drafts


@pytest.mark.parametrize(("limits", "num_drafts"), [({"max_draft": 2}, 2), ({"max_draft": 0}, 0)])
def test_no_more_is_guessed_than_is_allowed(limits: dict[str, int], num_drafts: int) -> None:
    state = drafting(**limits)
    home(state, 7, 7, token=2)
    work = state.next()
    assert work is not None
    assert len(work.drafts) == num_drafts


def test_a_frame_with_guesses_is_no_larger_than_a_chunk() -> None:
    state = batching(prefill_chunk=3, max_draft=16)
    state.admit(SequenceId(7), LOOP, max_tokens=20)
    for _ in range(3):
        state.next()
    home(state, 7, 7, token=2)
    work = state.next()
    assert work is not None
    assert len(work.token_ids) == 3


@pytest.mark.parametrize(("num_groups", "others", "guesses"), [(3, 1, True), (3, 2, False)])
def test_guesses_are_for_a_ring_with_fewer_sequences_than_groups(
    num_groups: int, others: int, guesses: bool
) -> None:
    state = drafting(num_slots=6, num_groups=num_groups)
    for sequence in range(others):
        admit(state, sequence, 1)
        state.next()
    home(state, 7, 7, token=2)
    work = state.next()
    assert work is not None
    assert bool(work.drafts) is guesses


def test_a_sequence_that_is_not_alone_in_its_frame_sends_no_guesses() -> None:
    state = drafting(num_slots=6, num_groups=3)
    others = [SequenceId(1), SequenceId(2), SequenceId(3)]
    for sequence in others:
        state.admit(sequence, (5, 6), max_tokens=9)
        state.next()
    for sequence in others[:2]:
        state.cancel(sequence)
    home(state, 7, 7, token=2)
    home(state, 3, 2, token=5)
    assert next_frame(state) == "0: 7@0[7:8]=2 3@1[2:3]=5"
