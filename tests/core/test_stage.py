"""What a stage takes in, and what the last one makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.drawing import Draw
from edgepipe.core.frame import (
    DType,
    FinishReason,
    Header,
    JobId,
    Likely,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.sampling import Choice, Sampling
from edgepipe.core.stage import Admission, Intake, Tails
from edgepipe.errors import WireError

HIDDEN = 8


def intake() -> Intake:
    return Intake(
        job=JobId("job"),
        epoch=2,
        num_slots=3,
        max_positions=10,
        max_rows=6,
        row_shape=(HIDDEN,),
        dtypes=frozenset({DType.FLOAT32, DType.BFLOAT16}),
    )


def frame(*spans: tuple[int, int, int], **changes: object) -> Header:
    """A header with spans (slot, start, count); sequence 10 · slot owns a slot."""
    header = Header(
        job=JobId("job"),
        epoch=2,
        step=1,
        group=0,
        spans=tuple(Span(slot=slot, start=start, count=count) for slot, start, count in spans),
        sequences=tuple(SequenceId(10 * slot) for slot, _, _ in spans),
        shape=(sum(count for _, _, count in spans), HIDDEN),
    )
    return header._replace(**changes)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------ intake


def test_spans_extend_their_slots() -> None:
    stage = intake()
    assert stage.takes(frame((0, 0, 4), (2, 0, 2)))
    assert stage.takes(frame((0, 4, 1)))
    assert stage.lengths == [5, 0, 2]


def test_a_span_that_starts_lower_truncates_its_slot() -> None:
    stage = intake()
    assert stage.takes(frame((1, 0, 6)))
    assert stage.takes(frame((1, 3, 1)))
    assert stage.lengths == [0, 4, 0]
    with pytest.raises(WireError):
        stage.takes(frame((1, 5, 1)))


def test_a_freed_slot_begins_anew() -> None:
    stage = intake()
    assert stage.takes(frame((1, 0, 6)))
    assert stage.takes(frame((1, 0, 2)))
    assert stage.lengths == [0, 2, 0]


def test_a_slot_may_be_filled_to_its_last_position_with_the_largest_frames() -> None:
    stage = intake()
    assert stage.takes(frame((0, 0, 6)))
    assert stage.takes(frame((0, 6, 4)))
    assert stage.lengths == [10, 0, 0]


def test_frames_of_another_epoch_are_dropped_and_counted_whatever_is_in_them() -> None:
    stage = intake()
    stage.takes(frame((0, 0, 2)))
    assert not stage.takes(frame((0, 2, 1), epoch=1))
    assert not stage.takes(frame((99, 99, 99), epoch=1))
    assert (stage.dropped, stage.lengths) == (2, [2, 0, 0])
    assert stage.takes(frame((0, 2, 1)))


ONLY_SPAN = "where each row after the first of an only span is one"
REFUSED = {
    "another job": (
        frame((0, 2, 1), job=JobId("other")),
        "a frame of job other arrived at a stage of job job",
    ),
    "no rows": (frame(), "a frame of 0 rows arrived where 1 to 6 are allowed"),
    "too many rows": (
        frame((0, 2, 4), (1, 0, 3)),
        "a frame of 7 rows arrived where 1 to 6 are allowed",
    ),
    "rows that its shape lacks": (
        frame((0, 2, 2), shape=(1, HIDDEN)),
        "a frame has shape (1, 8) float32, not (2, 8) bfloat16/float32",
    ),
    "another hidden size": (
        frame((0, 2, 1), shape=(1, 9)),
        "a frame has shape (1, 9) float32, not (1, 8) bfloat16/float32",
    ),
    "another rank": (
        frame((0, 2, 1), shape=(1, 2, 4)),
        "a frame has shape (1, 2, 4) float32, not (1, 8) bfloat16/float32",
    ),
    "another dtype": (
        frame((0, 2, 1), dtype=DType.INT64),
        "a frame has shape (1, 8) int64, not (1, 8) bfloat16/float32",
    ),
    "a span of nobody": (
        frame((0, 2, 1), sequences=()),
        "a frame does not name one sequence per span",
    ),
    "a slot twice": (
        frame((1, 0, 1), (1, 1, 1), sequences=(SequenceId(1), SequenceId(2))),
        "a frame names a slot or a sequence twice",
    ),
    "a sequence twice": (
        frame((1, 0, 1), (2, 0, 1), sequences=(SequenceId(1), SequenceId(1))),
        "a frame names a slot or a sequence twice",
    ),
    "a slot that does not exist": (frame((3, 0, 1)), "slot 3 does not exist, there are 3"),
    "a span of nothing": (
        frame((1, 0, 1), (0, 2, 0)),
        "positions 2 to 2 leave the cache of 10",
    ),
    "positions beyond the cache": (
        frame((0, 2, 1), (1, 8, 3)),
        "positions 8 to 11 leave the cache of 10",
    ),
    "guesses that it has no rows for": (
        frame((0, 2, 2), drafts=(7, 8)),
        f"a frame of 1 spans and 2 rows holds 2 guesses, {ONLY_SPAN}",
    ),
    "guesses beside other rows": (
        frame((0, 2, 3), drafts=(7,)),
        f"a frame of 1 spans and 3 rows holds 1 guesses, {ONLY_SPAN}",
    ),
    "guesses in a frame of two": (
        frame((0, 2, 1), (1, 0, 1), drafts=(7,)),
        f"a frame of 2 spans and 2 rows holds 1 guesses, {ONLY_SPAN}",
    ),
    "a gap": (frame((0, 3, 1)), "slot 0 holds 2 positions, a span cannot begin at 3"),
    "a gap behind a good span": (
        frame((0, 2, 1), (1, 1, 1)),
        "slot 1 holds 0 positions, a span cannot begin at 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_that_cannot_be_right_is_refused_and_changes_nothing(name: str) -> None:
    header, sentence = REFUSED[name]
    stage = intake()
    assert stage.takes(frame((0, 0, 2)))
    with pytest.raises(WireError) as refused:
        stage.takes(header)
    assert str(refused.value) == sentence
    assert (stage.lengths, stage.dropped) == ([2, 0, 0], 0)


SPANS = st.builds(Span, slot=st.integers(0, 4), start=st.integers(0, 12), count=st.integers(0, 8))


@given(frames=st.lists(st.lists(SPANS, max_size=4), max_size=8))
def test_whatever_arrives_the_lengths_stay_those_of_a_cache(frames: list[list[Span]]) -> None:
    """Model: a list of rows per slot, cut and extended by hand."""
    stage = intake()
    cache: list[list[int]] = [[], [], []]
    for spans in frames:
        header = frame(*((span.slot, span.start, span.count) for span in spans))
        try:
            taken = stage.takes(header)
        except WireError:
            taken = False
        for span in spans if taken else ():
            rows = cache[span.slot]
            assert span.start <= len(rows), "no gap"
            rows[span.start :] = range(span.count)
        assert stage.lengths == [len(rows) for rows in cache]
        assert max(stage.lengths) <= stage.max_positions


# ------------------------------------------------------------------------------------- tails

SEQUENCE = SequenceId(0)
EOS = 9


def admission(**changes: object) -> Admission:
    """A prompt of three tokens in slot 0."""
    plain = Admission(
        sequence=SEQUENCE,
        prompt_length=3,
        sampling=Sampling(temperature=0.5, seed=4),
        max_tokens=3,
        eos_ids=frozenset({EOS, 8}),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def tails(*admissions: Admission) -> Tails:
    table = Tails(max_sequences=3)
    for each in admissions or (admission(),):
        table.admit(each)
    return table


def draw_one(table: Tails, header: Header, token: int) -> SampledToken | None:
    (draw,) = table.due(header)
    (sampled,) = table.record(header, draw, choices(token)) or (None,)
    return sampled


def choices(*tokens: int) -> list[Choice]:
    return [Choice(token, -0.25, ()) for token in tokens]


def test_only_the_last_chunk_of_a_prompt_is_sampled_from() -> None:
    table = tails()
    assert table.due(frame((0, 0, 2))) == ()
    assert table.due(frame((0, 2, 1))) == (Draw(span=0, position=3, sampling=admission().sampling),)


def test_a_span_beyond_the_end_of_its_sequence_is_not_sampled_from() -> None:
    assert tails().due(frame((0, 0, 4))) == ()


def test_a_token_carries_where_it_belongs() -> None:
    assert draw_one(tails(), frame((0, 0, 3)), token=5) == SampledToken(
        sequence=SEQUENCE, slot=0, position=3, token=5, logprob=-0.25
    )


def test_positions_follow_one_another_until_max_tokens() -> None:
    table = tails()
    tokens = [draw_one(table, frame((0, 0, 3)), token=5)]
    tokens += [draw_one(table, frame((0, position, 1)), token=5) for position in (3, 4)]
    found = [(token.position, token.finish) for token in tokens if token]
    assert found == [(3, None), (4, None), (5, FinishReason.LENGTH)]
    assert table.due(frame((0, 5, 1))) == ()


@pytest.mark.parametrize("token", [8, EOS])
def test_any_eos_token_ends_a_sequence_and_counts(token: int) -> None:
    table = tails()
    sampled = draw_one(table, frame((0, 0, 3)), token=token)
    assert sampled is not None
    assert (sampled.token, sampled.finish) == (token, FinishReason.STOP)
    assert table.due(frame((0, 3, 1))) == ()


def test_an_eos_token_as_the_last_allowed_one_is_a_stop() -> None:
    sampled = draw_one(tails(admission(max_tokens=1)), frame((0, 0, 3)), token=EOS)
    assert sampled is not None
    assert sampled.finish is FinishReason.STOP


def test_each_span_of_a_frame_is_sampled_for_its_own_sequence() -> None:
    warm = Sampling(temperature=1.0, seed=1)
    table = tails(admission(), admission(sequence=SequenceId(20), prompt_length=5, sampling=warm))
    header = frame((0, 0, 3), (1, 0, 3), (2, 4, 1))
    draws = table.due(header)
    assert [(draw.span, draw.position) for draw in draws] == [(0, 3), (2, 5)]
    assert draws[1].sampling == warm
    sampled = [one for draw in draws for one in table.record(header, draw, choices(5))]
    assert [(one.sequence, one.slot) for one in sampled] == [(0, 0), (20, 2)]


def test_a_sequence_that_nobody_admitted_is_not_sampled() -> None:
    assert tails().due(frame((1, 0, 3))) == ()


def test_a_cancelled_sequence_is_not_sampled_any_more() -> None:
    table = tails()
    table.cancel(SEQUENCE)
    table.cancel(SEQUENCE)
    assert table.due(frame((0, 0, 3))) == ()


def test_a_token_of_a_sequence_that_was_cancelled_while_it_was_computed_is_dropped() -> None:
    table = tails()
    header = frame((0, 0, 3))
    (draw,) = table.due(header)
    table.cancel(SEQUENCE)
    assert table.record(header, draw, choices(5)) == ()


def test_a_replay_feeds_emitted_tokens_back_and_samples_none_of_them_again() -> None:
    table = tails(admission(max_tokens=9))
    for header in (frame((0, 0, 3)), frame((0, 3, 1)), frame((0, 4, 1))):
        assert draw_one(table, header, token=5)
    for replayed in (frame((0, 0, 2)), frame((0, 2, 2)), frame((0, 4, 1)), frame((0, 0, 5))):
        assert table.due(replayed) == ()
    (draw,) = table.due(frame((0, 0, 6)))
    assert draw.position == 6


def test_logits_are_wanted_for_prompt_rows_of_a_sequence_that_asked() -> None:
    table = tails(admission(prompt_logits=True), admission(sequence=SequenceId(10)))
    assert table.wants_logits(frame((0, 0, 2)))
    assert table.wants_logits(frame((1, 0, 2), (0, 0, 2)))
    assert not table.wants_logits(frame((1, 0, 2)))
    assert not table.wants_logits(frame((0, 3, 1)))
    table.cancel(SEQUENCE)
    assert not table.wants_logits(frame((0, 0, 2)))


def guessed(*drafts: int, start: int = 3) -> Header:
    """A token of the sequence in slot 0, and guesses behind it."""
    return frame((0, start, 1 + len(drafts)), drafts=drafts)


def found(sampled: Sequence[SampledToken]) -> list[tuple[int, int, FinishReason | None]]:
    return [(one.position, one.token, one.finish) for one in sampled]


def after_prompt(**changes: object) -> Tails:
    table = tails(admission(**{"max_tokens": 9, **changes}))
    assert draw_one(table, frame((0, 0, 3)), token=5)
    return table


def test_a_frame_with_guesses_is_sampled_from_its_first_row_on() -> None:
    table = after_prompt()
    (draw,) = table.due(guessed(6, 7))
    assert (draw.span, draw.position, draw.drafts) == (0, 4, (6, 7))
    tokens = table.record(guessed(6, 7), draw, choices(6, 7, 4))
    assert found(tokens) == [(4, 6, None), (5, 7, None), (6, 4, None)]
    (draw,) = table.due(guessed(6, start=6))
    assert draw.position == 7


def test_guesses_that_begin_elsewhere_are_not_sampled_from() -> None:
    table = after_prompt()
    assert table.due(guessed(6, 7, start=4)) == ()
    assert table.due(guessed(6, 7, start=2)) == ()


def test_what_follows_an_eos_token_among_the_guesses_is_dropped() -> None:
    table = after_prompt()
    (draw,) = table.due(guessed(EOS, 7))
    tokens = table.record(guessed(EOS, 7), draw, choices(EOS, 7, 4))
    assert found(tokens) == [(4, EOS, FinishReason.STOP)]
    assert table.due(guessed(start=5)) == ()


def test_max_tokens_end_a_sequence_among_its_guesses() -> None:
    table = after_prompt(max_tokens=3)
    (draw,) = table.due(guessed(6, 7, 8))
    tokens = table.record(guessed(6, 7, 8), draw, choices(6, 7, 4))
    assert found(tokens) == [(4, 6, None), (5, 7, FinishReason.LENGTH)]


def test_a_sequence_that_is_cancelled_loses_all_that_was_drawn() -> None:
    table = after_prompt()
    (draw,) = table.due(guessed(6))
    table.cancel(SEQUENCE)
    assert table.record(guessed(6), draw, choices(6, 7)) == ()


def test_what_a_penalty_is_for_is_counted_without_the_prompt() -> None:
    table = after_prompt(sampling=Sampling(frequency_penalty=0.5))
    (draw,) = table.due(guessed(5))
    assert draw.counts == {5: 1}
    table.record(guessed(5), draw, choices(5, 6))
    (draw,) = table.due(frame((0, 5, 1)))
    assert draw.counts == {5: 2, 6: 1}


def test_nothing_is_counted_where_nothing_is_penalised() -> None:
    (draw,) = after_prompt().due(guessed(6))
    assert draw.counts == {}


def test_likely_tokens_travel_with_the_sampled_one() -> None:
    table, likely = tails(), (Likely(5, -0.25), Likely(6, -2.0))
    (draw,) = table.due(frame((0, 0, 3)))
    (sampled,) = table.record(frame((0, 0, 3)), draw, [Choice(5, -0.25, likely)])
    assert sampled.likely == likely


def test_a_sequence_is_known_once() -> None:
    with pytest.raises(WireError, match=r"^sequence 0 is admitted already$"):
        tails().admit(admission())


def test_the_table_of_sequences_is_bounded() -> None:
    table = tails(*(admission(sequence=SequenceId(number)) for number in range(3)))
    with pytest.raises(WireError, match=r"^sequence 3 is one too many: 3 are here$"):
        table.admit(admission(sequence=SequenceId(3)))
