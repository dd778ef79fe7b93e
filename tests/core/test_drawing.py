"""The tokens of a frame's logits are those that `sample` gives row by row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.drawing import Draw, draw_all
from edgepipe.core.sampling import Choice, Logits, Sampling, sample
from edgepipe.errors import StageError

VOCAB = 12
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.8, seed=3),
    Sampling(presence_penalty=1.5, frequency_penalty=0.5),
    Sampling(logit_bias=((4, 3.0),)),
    Sampling(num_likely=3),
    Sampling(num_likely=0),
    Sampling(temperature=0.5, top_k=1),
)


def logits_of(num_rows: int, seed: int = 0) -> Logits:
    return np.random.default_rng(seed).normal(size=(num_rows, VOCAB)).astype(np.float32)


def one_by_one(logits: Logits, draw: Draw) -> list[Choice]:
    """A frame for each token, as long as they are as guessed."""
    counts = dict(draw.counts)
    choices: list[Choice] = []
    for row in logits:
        choice = sample(row, draw.sampling, draw.position + len(choices), counts)
        counts[choice.token] = counts.get(choice.token, 0) + 1
        choices.append(choice)
        if [each.token for each in choices] != list(draw.drafts[: len(choices)]):
            break
    return choices


def assert_alike(found: tuple[Choice, ...], expected: list[Choice]) -> None:
    assert [choice.token for choice in found] == [choice.token for choice in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-6)
        assert one.likely == other.likely


@given(which=st.lists(st.sampled_from(SAMPLINGS), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_each_row_of_a_group_is_sampled_as_if_it_were_alone(
    which: list[Sampling], seed: int
) -> None:
    logits = logits_of(len(which) + 1, seed)
    draws = [
        Draw(span=row, position=10 + row, sampling=sampling, counts={1: 2, 5: 1})
        for row, sampling in enumerate(which)
    ]
    rows = list(range(len(which)))
    for row, (draw, found) in enumerate(zip(draws, draw_all(logits, draws, rows), strict=True)):
        assert_alike(found, one_by_one(logits[row : row + 1], draw))


@given(
    sampling=st.sampled_from(SAMPLINGS),
    seed=st.integers(0, 99),
    num_right=st.integers(0, 4),
    num_drafts=st.integers(0, 4),
)
def test_guesses_give_the_tokens_of_a_frame_for_each(
    sampling: Sampling, seed: int, num_right: int, num_drafts: int
) -> None:
    logits = logits_of(1 + num_drafts, seed)
    right: tuple[int, ...] = ()
    for _ in range(min(num_right, num_drafts)):
        longer = Draw(span=0, position=7, sampling=sampling, drafts=right, counts={2: 1})
        right = tuple(choice.token for choice in one_by_one(logits, longer)[: len(right) + 1])
    drafts = (*right, *((right[-1:] or (0,)) * num_drafts))[:num_drafts]
    draw = Draw(span=0, position=7, sampling=sampling, drafts=drafts, counts={2: 1})
    (found,) = draw_all(logits, [draw], [0])
    assert len(found) > min(num_right, num_drafts)
    assert_alike(found, one_by_one(logits, draw))


def test_guesses_may_stand_behind_rows_that_nothing_is_drawn_from() -> None:
    logits = logits_of(5)
    draw = Draw(span=0, position=7, sampling=Sampling())
    assert draw_all(logits, [draw], [4])[0][0].token == logits[4].argmax()


def test_no_draws_give_no_tokens() -> None:
    assert draw_all(logits_of(2), [], []) == ()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("num_draws", [1, 2])
def test_logits_that_are_not_finite_are_refused(value: float, num_draws: int) -> None:
    logits = logits_of(2)
    logits[num_draws - 1, 3] = value
    draws = [Draw(span=row, position=7, sampling=Sampling()) for row in range(num_draws)]
    with pytest.raises(StageError, match="not finite"):
        draw_all(logits, draws, range(num_draws))
