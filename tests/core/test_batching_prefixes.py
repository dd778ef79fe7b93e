"""Prompts that go on from what a slot holds, and what a cancelled sequence leaves."""

from __future__ import annotations

import pytest
from batching_frames import LOOP, admit, batching, home, next_frame

from edgepipe.core.frame import SequenceId


def chat(length: int) -> tuple[int, ...]:
    return tuple(range(1000, 1000 + length))


def test_a_prompt_that_goes_on_from_what_a_free_slot_holds_starts_behind_it() -> None:
    state = batching(num_slots=2, prefill_chunk=64)
    state.admit(SequenceId(1), chat(20), max_tokens=9)
    state.next()
    home(state, 1, 20, token=3)
    state.next()
    home(state, 1, 21, token=4, last=True)
    state.admit(SequenceId(2), (*chat(20), 3, 4, 5, 6), max_tokens=9)
    assert next_frame(state) == "0: 2@0[21:24]=4,5,6", "4 was sampled and never sent"


def test_the_last_two_tokens_of_a_prompt_are_computed_in_any_case() -> None:
    state = batching(prefill_chunk=64)
    for sequence in (1, 2):
        state.admit(SequenceId(sequence), chat(20), max_tokens=9)
    state.next()
    home(state, 1, 20, last=True)
    assert next_frame(state) == "0: 2@0[18:20]=1018,1019"


def test_who_wants_the_logits_of_a_prompt_gets_all_its_rows() -> None:
    state = batching(prefill_chunk=64)
    state.admit(SequenceId(1), chat(20), max_tokens=9)
    state.next()
    state.cancel(SequenceId(1))
    state.admit(SequenceId(2), chat(20), max_tokens=9, reuse=False)
    work = state.next()
    assert work is not None
    assert work.spans[0].start == 0


def test_what_was_sent_of_a_cancelled_prompt_is_reused_though_it_is_in_the_ring() -> None:
    state = batching(prefill_chunk=16)
    state.admit(SequenceId(1), chat(40), max_tokens=9)
    state.next()
    state.cancel(SequenceId(1))
    state.admit(SequenceId(2), chat(40), max_tokens=9)
    work = state.next()
    assert work is not None
    assert (work.spans[0].start, work.spans[0].count) == (16, 16)


def test_wrong_guesses_are_not_held_to_be_cached() -> None:
    state = batching(prefill_chunk=64, max_draft=4)
    loop = (1, 2, 3) * 10
    state.admit(SequenceId(1), loop, max_tokens=9)
    state.next()
    home(state, 1, 30, token=1)
    work = state.next()
    assert work is not None
    assert work.drafts == (2, 3, 1, 2)
    home(state, 1, 31, token=2)
    state.cancel(SequenceId(1))
    state.admit(SequenceId(2), (*loop, 1, 2, 3, 1, 2, 3, 1), max_tokens=9)
    assert next_frame(state) == "0: 2@0[32:37]=3,1,2,3,1"


@pytest.mark.parametrize("state", ["waiting", "prefilling", "in the ring", "home", "guessed"])
def test_nothing_is_left_of_a_cancelled_sequence(state: str) -> None:
    batch = batching(num_slots=1, prefill_chunk=4, max_draft=4)
    if state == "waiting":
        admit(batch, 1, 1)
    batch.admit(SequenceId(7), LOOP, max_tokens=9)
    chunks = {"waiting": 0, "prefilling": 1}.get(state, 2)
    for _ in range(chunks):
        batch.next()
    if state in {"home", "guessed"}:
        home(batch, 7, 7, token=2)
    if state == "guessed":
        work = batch.next()
        assert work is not None
        assert work.drafts
        home(batch, 7, 8, token=3)
    for sequence in (7, 1):
        batch.cancel(SequenceId(sequence))
    assert (batch._sequences, batch._waiting, batch._slots._taken) == ({}, {}, {})
    assert not batch._prefilling
    assert batch.next() is None
