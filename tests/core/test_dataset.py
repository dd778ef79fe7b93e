"""Packing: every token once, in order, each with the target it had."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.dataset import Example, example, microbatches, pack
from edgepipe.core.training import IGNORED

TOKENS = st.lists(st.tuples(st.integers(0, 99_999), st.booleans()), min_size=1, max_size=20)
DOCUMENTS = st.lists(TOKENS, max_size=12)


def documents_of(drawn: list[list[tuple[int, bool]]]) -> list[Example]:
    return [example([id_ for id_, _ in each], [mark for _, mark in each]) for each in drawn]


def joined(examples: list[Example] | tuple[Example, ...]) -> tuple[list[int], list[int]]:
    return (
        [int(id_) for each in examples for id_ in each.token_ids],
        [int(id_) for each in examples for id_ in each.targets],
    )


def test_a_target_is_the_next_token_and_the_last_token_has_none() -> None:
    whole = example([5, 6, 7])
    assert whole.token_ids.tolist() == [5, 6, 7]
    assert whole.targets.tolist() == [6, 7, IGNORED]
    assert whole.token_ids.dtype == whole.targets.dtype == np.int32


def test_only_learned_tokens_are_targets() -> None:
    answer = example([1, 2, 3, 4], [False, False, True, False])
    assert answer.targets.tolist() == [IGNORED, 3, IGNORED, IGNORED]
    assert answer.num_targets == 1


def test_a_cut_example_keeps_the_target_behind_its_end() -> None:
    assert example([5, 6, 7]).cut(0, 2).targets.tolist() == [6, 7]


def test_the_picture_of_the_module() -> None:
    rows = pack([example([10, 11, 12, 0]), example([20, 21, 0]), example([30, 31, 32, 33, 0])], 5)
    assert [row.token_ids.tolist() for row in rows] == [
        [10, 11, 12, 0, 20],
        [21, 0, 30, 31, 32],
        [33, 0],
    ]
    assert [row.targets.tolist() for row in rows] == [
        [11, 12, 0, IGNORED, 21],
        [0, IGNORED, 31, 32, 33],
        [0, IGNORED],
    ]


@given(drawn=DOCUMENTS, sequence_length=st.integers(1, 9))
def test_packing_keeps_every_token_once_in_order(
    drawn: list[list[tuple[int, bool]]], sequence_length: int
) -> None:
    documents = documents_of(drawn)
    rows = pack(documents, sequence_length)
    assert joined(rows) == joined(documents)
    assert all(len(row) == sequence_length for row in rows[:-1])
    assert all(0 < len(row) <= sequence_length for row in rows)


@given(batch=st.lists(st.integers(), min_size=1, max_size=20), data=st.data())
def test_microbatches_hold_the_batch_in_order_and_as_evenly_as_can_be(
    batch: list[int], data: st.DataObject
) -> None:
    parts = microbatches(batch, data.draw(st.integers(1, len(batch))))
    sizes = [len(part) for part in parts]
    assert [each for part in parts for each in part] == batch
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] - sizes[-1] <= 1
    assert sizes[-1] >= 1


def test_seven_sequences_in_three_microbatches() -> None:
    assert microbatches("abcdefg", 3) == (("a", "b", "c"), ("d", "e"), ("f", "g"))


@pytest.mark.parametrize("num_microbatches", [0, 4])
def test_no_microbatch_is_empty(num_microbatches: int) -> None:
    with pytest.raises(ValueError, match="3 sequences do not fill"):
        microbatches([1, 2, 3], num_microbatches)
