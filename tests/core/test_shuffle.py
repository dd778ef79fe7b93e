"""Every example once an epoch, in an order that a seed decides, from any cursor on."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.shuffle import Cursor, epoch_order, held_out, held_out_passage, next_batch

SIZE = st.integers(1, 40)
SEED = st.integers(0, 2**63)
FRACTION = st.floats(0, 1, exclude_min=True, exclude_max=True)


def batches(num_examples: int, size: int, seed: int, *, start: Cursor, count: int) -> list[object]:
    cursor, taken = start, []
    for _ in range(count):
        batch, cursor = next_batch(cursor, num_examples, size, seed=seed)
        taken.append((batch, cursor))
    return taken


@given(num_examples=SIZE, seed=SEED, epoch=st.integers(0, 9))
def test_an_epoch_is_a_permutation(num_examples: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_examples, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(num_examples))


def test_the_order_is_the_same_for_ever() -> None:
    assert epoch_order(10, seed=0, epoch=0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [7, 6, 4, 5, 3, 9, 1, 0, 2, 8]
    assert epoch_order(10, seed=1, epoch=0).tolist() == [7, 4, 5, 1, 9, 8, 6, 2, 0, 3]


@given(num_examples=SIZE, size=SIZE, seed=SEED, epoch=st.integers(0, 3))
def test_an_epochs_batches_hold_every_example_once(
    num_examples: int, size: int, seed: int, epoch: int
) -> None:
    cursor, taken = Cursor(epoch=epoch), []
    while cursor.epoch == epoch:
        batch, cursor = next_batch(cursor, num_examples, size, seed=seed)
        taken.append(batch)
    assert sorted(index for batch in taken for index in batch) == list(range(num_examples))
    assert all(len(batch) == size for batch in taken[:-1])
    assert 0 < len(taken[-1]) <= size
    assert cursor == Cursor(epoch=epoch + 1)


@given(num_examples=SIZE, size=SIZE, seed=SEED, steps=st.integers(0, 20))
def test_a_cursor_alone_says_what_comes_next(
    num_examples: int, size: int, seed: int, steps: int
) -> None:
    whole = batches(num_examples, size, seed, start=Cursor(), count=steps + 5)
    kept = Cursor.from_json(json.loads(json.dumps(whole[steps - 1][1].to_json())))
    resumed = batches(num_examples, size, seed, start=kept if steps else Cursor(), count=5)
    assert resumed == whole[steps:]


def test_a_cursor_past_a_smaller_dataset_begins_the_next_epoch() -> None:
    batch, cursor = next_batch(Cursor(epoch=1, position=9), 4, 4, seed=0)
    assert batch == tuple(epoch_order(4, seed=0, epoch=2).tolist())
    assert cursor == Cursor(epoch=3)


@pytest.mark.parametrize(("num_examples", "size"), [(0, 1), (1, 0)])
def test_there_is_no_empty_batch(num_examples: int, size: int) -> None:
    with pytest.raises(ValueError, match="No batch"):
        next_batch(Cursor(), num_examples, size, seed=0)


@pytest.mark.parametrize("value", [{}, {"epoch": 0, "position": -1}, {"epoch": "0", "position": 0}])
def test_what_is_no_cursor_is_refused(value: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="an epoch and a position"):
        Cursor.from_json(value)


@given(num_examples=st.integers(2, 60), fraction=FRACTION, seed=SEED)
def test_some_are_held_out_and_never_all(num_examples: int, fraction: float, seed: int) -> None:
    chosen = held_out(num_examples, fraction, seed=seed)
    assert chosen == held_out(num_examples, fraction, seed=seed)
    assert chosen < frozenset(range(num_examples))
    assert abs(len(chosen) - num_examples * fraction) <= 1
    assert chosen


@given(num_paragraphs=st.integers(2, 60), fraction=FRACTION, seed=SEED, file=st.integers(0, 3))
def test_a_passage_is_inside_the_text_and_never_all_of_it(
    num_paragraphs: int, fraction: float, seed: int, file: int
) -> None:
    passage = held_out_passage(num_paragraphs, fraction, seed=seed, file=file)
    assert 0 <= passage.start < passage.stop <= num_paragraphs
    assert len(passage) == len(held_out(num_paragraphs, fraction, seed=seed)) < num_paragraphs


@pytest.mark.parametrize("num_examples", [0, 1])
def test_what_cannot_be_divided_is_all_trained_on(num_examples: int) -> None:
    assert held_out(num_examples, 0.5, seed=0) == frozenset()
    assert not held_out_passage(num_examples, 0.5, seed=0, file=0)
