from __future__ import annotations

import torch

from edgepipe.engine.torch.padding import Padding

CPU = torch.device("cpu")


def test_rows_are_padded_on_the_right_and_taken_back() -> None:
    padding = Padding((3, 2), CPU)
    rows = torch.tensor([1, 2, 3, 4, 5])
    padded = padding.pad(rows)
    assert padded.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert padding.take(padded).tolist() == rows.tolist()
    assert padding.positions.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert padding.places(torch.tensor([0, 4])).tolist() == [0, 4]


def test_the_second_sequence_stands_after_the_firsts_padding() -> None:
    padding = Padding((1, 3), CPU)
    hidden = torch.randn(4, 8)
    padded = padding.pad(hidden)
    assert padded.shape == (2, 3, 8)
    assert not padded[0, 1:].any()
    assert torch.equal(padding.take(padded), hidden)
    assert padding.places(torch.tensor([0, 1, 3])).tolist() == [0, 3, 5]


def test_equal_lengths_are_not_copied() -> None:
    rows = torch.randn(6, 8)
    padding = Padding((3, 3), CPU)
    padded = padding.pad(rows)
    assert padded.data_ptr() == rows.data_ptr() == padding.take(padded).data_ptr()
