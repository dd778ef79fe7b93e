"""How many microbatches each stage of 1f1b-k holds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.depths import best_depths, nearby, steady_depths


@pytest.mark.parametrize(
    ("most", "hop_s", "expected"),
    [
        ((7, 5, 4, 2), (0.033,) * 3, (7, 5, 3, 1)),
        ((9, 8, 7, 6), (0.0, 0.0, 0.0), (4, 3, 2, 1)),
        ((9, 8, 7, 6), (0.06, 0.06, 0.06), (7, 5, 3, 1)),
        ((9, 8, 7, 6), (0.06, 0.07, 0.06), (8, 6, 3, 1)),
        ((3, 3, 3, 3), (0.1, 0.1, 0.1), (3, 3, 3, 1)),
        ((2, 5, 4, 2), (0.033,) * 3, (2, 2, 2, 1)),
        ((16,), (), (1,)),
    ],
)
def test_a_stage_holds_one_more_than_the_next_and_what_hides_the_hop(
    most: tuple[int, ...], hop_s: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert steady_depths(most, hop_s, 0.06, 16) == expected


def test_there_are_no_more_than_microbatches() -> None:
    assert steady_depths((9, 9, 9), (1.0, 1.0), 0.01, 4) == (4, 4, 1)


CAPS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(most=CAPS, data=st.data(), num_microbatches=st.integers(1, 12))
def test_depths_keep_within_their_bounds(
    most: list[int], data: st.DataObject, num_microbatches: int
) -> None:
    hops = data.draw(st.lists(st.floats(0, 1), min_size=len(most) - 1, max_size=len(most) - 1))
    depths = steady_depths(most, hops, 0.1, num_microbatches)
    for each in (depths, *nearby(depths, most, num_microbatches)):
        assert len(each) == len(most)
        assert all(
            1 <= depth <= min(cap, num_microbatches) for depth, cap in zip(each, most, strict=True)
        )
        assert all(before >= after for before, after in pairwise(each))


def test_the_best_nearby_is_found_step_by_step() -> None:
    def seconds(depths: tuple[int, ...]) -> float:
        return sum((depth - wanted) ** 2 for depth, wanted in zip(depths, (6, 4, 2), strict=True))

    assert best_depths((3, 2, 1), (9, 9, 9), 16, seconds) == (6, 4, 2)
    assert best_depths((3, 2, 1), (5, 9, 9), 16, seconds) == (5, 4, 2)


def test_of_equally_fast_depths_the_first_stays() -> None:
    assert best_depths((3, 2, 1), (9, 9, 9), 16, lambda _: 1.0) == (3, 2, 1)
