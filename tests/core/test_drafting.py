"""Guesses from a sequence's own history, and how many of them pay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.drafting import WINDOW, Drafter, Lookup, best_length, copied

TOKENS = st.lists(st.integers(0, 3), max_size=40)


def by_rescan(tokens: list[int]) -> tuple[int, int] | None:
    """The longest of the last runs that came before, where it came last."""
    for count in (3, 2, 1):
        for end in range(len(tokens) - 1, count - 1, -1):
            if count <= len(tokens) and tokens[end - count : end] == tokens[-count:]:
                return count, end
    return None


@given(steps=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=12))
def test_an_index_that_is_kept_up_finds_what_a_rescan_finds(steps: list[list[int]]) -> None:
    lookup, tokens = Lookup(), list[int]()
    for step in steps:
        tokens += step
        assert lookup.find(tokens) == by_rescan(tokens)


def test_what_lies_further_back_than_the_window_is_not_found() -> None:
    tokens = [-1, *range(WINDOW), -1]
    assert Lookup().find(tokens) is None
    assert Lookup().find(tokens[:2] + tokens[3:]) == (1, 1)


@given(tokens=st.lists(st.integers(0, 9), min_size=1, max_size=9), data=st.data())
def test_a_guess_beyond_the_history_goes_on_with_itself(
    tokens: list[int], data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(tokens) - 1))
    period = tokens[start:]
    assert copied(tokens, start, 20) == tuple(period[i % len(period)] for i in range(20))


@pytest.mark.parametrize(
    ("rate", "row_cost", "limit", "length"),
    [
        (0.0, 0.12, 9, 0),
        (0.1, 0.12, 9, 0),
        (0.12, 0.12, 9, 0),
        (0.2, 0.12, 9, 1),
        (0.7, 0.12, 9, 4),
        (0.7, 0.12, 3, 3),
        (1.0, 0.12, 9, 9),
        (0.7, 1.0, 9, 0),
        (1.0, 0.12, 0, 0),
    ],
)
def test_as_many_are_guessed_as_pay(rate: float, row_cost: float, limit: int, length: int) -> None:
    assert best_length(rate, row_cost, limit) == length


@given(rate=st.floats(0, 1), row_cost=st.floats(0.01, 1), limit=st.integers(0, 30))
def test_no_other_length_gives_more_tokens_a_second(
    rate: float, row_cost: float, limit: int
) -> None:
    def gain(length: int) -> float:
        return sum(rate**i for i in range(length + 1)) / (1 + length * row_cost)

    best = gain(best_length(rate, row_cost, limit))
    assert all(gain(length) <= best + 1e-9 for length in range(limit + 1))


def lengths(drafter: Drafter, tokens: list[int], steps: int, *, right: bool) -> list[int]:
    """How many are guessed in frame after frame that come home all right, or all wrong."""
    found = []
    for _ in range(steps):
        guess = drafter.propose(tokens, 16)
        found.append(len(guess))
        for token in (*guess, copied(tokens, len(tokens) - 2, 1)[0]) if right else (99,):
            drafter.observe(token)
        tokens = [*tokens, *guess] if right else tokens
    return found


def test_guesses_grow_where_they_are_right_and_cease_where_they_are_wrong() -> None:
    drafter, loop = Drafter(row_cost=0.12), [1, 2] * 5
    assert (growing := lengths(drafter, loop, 8, right=True)) == sorted(growing)
    assert (growing[0], growing[-1]) == (4, 16)
    assert (shrinking := lengths(drafter, [1, 2] * 99, 30, right=False)) == sorted(shrinking)[::-1]
    assert shrinking[-1] == 0


def test_guesses_that_are_not_sent_are_judged_too_so_that_they_begin_again() -> None:
    drafter, loop = Drafter(row_cost=0.12), [1, 2] * 5
    lengths(drafter, loop, 40, right=False)
    for _ in range(20):
        drafter.propose(loop, 16)
        drafter.observe(1)
    assert drafter.propose(loop, 16)
