"""Stage 0's decisions, one frame after another.

A frame reads `group: sequence@slot[start:end]=tokens …`, e.g. `0: 7@0[0:3]=10,11,12`.
"""

from __future__ import annotations

import pytest

from edgepipe.core.batching import Batching, Work
from edgepipe.core.frame import FinishReason, SampledToken, SequenceId
from edgepipe.errors import WireError


def batching(
    num_slots: int = 1, num_groups: int = 1, prefill_chunk: int = 4, **more: int
) -> Batching:
    return Batching(num_slots=num_slots, num_groups=num_groups, prefill_chunk=prefill_chunk, **more)


def admit(state: Batching, sequence: int, prompt_length: int) -> None:
    """A prompt of sequence 7 is 70, 71, 72 …"""
    tokens = range(10 * sequence, 10 * sequence + prompt_length)
    state.admit(SequenceId(sequence), tuple(tokens), max_tokens=100)


def frame(work: Work | None) -> str | None:
    if work is None:
        return None
    tokens, spans = list(work.token_ids), []
    for span, sequence in zip(work.spans, work.sequences, strict=True):
        own, tokens = tokens[: span.count], tokens[span.count :]
        ids = ",".join(map(str, own))
        spans.append(f"{sequence}@{span.slot}[{span.start}:{span.end}]={ids}")
    assert not tokens
    return f"{work.group}: {' '.join(spans)}"


def next_frame(state: Batching) -> str | None:
    return frame(state.next())


def home(
    state: Batching, sequence: int, position: int, token: int = 5, *, last: bool = False
) -> None:
    """The last stage's token for a position came back; `last` ends the sequence."""
    state.returned(
        SampledToken(
            sequence=SequenceId(sequence),
            slot=0,
            position=position,
            token=token,
            logprob=0.0,
            finish=FinishReason.STOP if last else None,
        )
    )


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


# ------------------------------------------------------------------------------------ guesses

LOOP = (1, 2, 3, 1, 2, 3, 1)
"""After it comes 2, 3, 1, 2, 3, 1 …"""


def drafting(num_slots: int = 1, num_groups: int = 1, **more: int) -> Batching:
    """A batching that guesses four tokens after `LOOP`, which sequence 7 has sent."""
    state = batching(num_slots, num_groups, **{"prefill_chunk": 8, "max_draft": 16, **more})
    state.admit(SequenceId(7), LOOP, max_tokens=20)
    state.next()
    return state


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


# ------------------------------------------------------------------------------------ prefixes


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
