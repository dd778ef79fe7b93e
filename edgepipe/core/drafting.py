"""Guessing a sequence's next tokens from its own history, so that one turn of the ring checks many.

Prompt lookup (Saxena 2023; Yang et al. 2023, "Inference with Reference"): what followed the last
tokens when they came before, three of them if they did, else two, else one.

    history  a b c d e . . . a b c        guess  d e . . .

A guess that runs into the end of the history goes on with its own tokens, so that a loop of any
length is guessed as far as one likes. How far is decided by what guesses were worth so far.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

DEFAULT_DRAFTS = 15
"""A wrong guess of many more would cost what the right ones save."""
MAX_GRAM = 3
WINDOW = 1 << 14
"""Older tokens are not looked up: they would cost memory, and time at the first guess."""
_PRIOR = {1: 0.3, 2: 0.5, 3: 0.7}
"""How often a guess is taken to be right before any was checked, by the tokens that it follows."""
_WEIGHT = 0.12
"""Of one checked token in the running average."""


@dataclass(slots=True, kw_only=True)
class Lookup:
    """Where each run of up to three tokens last came, kept up at constant cost a token."""

    _follows: dict[tuple[int, ...], int] = field(default_factory=dict)
    _num_indexed: int = 1

    def find(self, tokens: Sequence[int]) -> tuple[int, int] | None:
        """How many of the last tokens came before, and the index of what followed them then.

        `tokens` is the whole history; it only grows from call to call.
        """
        for end in range(max(self._num_indexed, len(tokens) - WINDOW), len(tokens)):
            for count in range(1, min(MAX_GRAM, end) + 1):
                self._follows[tuple(tokens[end - count : end])] = end
        self._num_indexed = len(tokens)
        for count in range(min(MAX_GRAM, len(tokens)), 0, -1):
            follows = self._follows.get(tuple(tokens[-count:]))
            if follows is not None:
                return count, follows
        return None


@dataclass(slots=True, kw_only=True)
class Drafter:
    """Guesses for one sequence. Every token that comes is held against the guess, sent or not.

    `row_cost` is what each further row adds to the time of a frame of one row, as its fraction.
    """

    row_cost: float
    _lookup: Lookup = field(default_factory=Lookup)
    _rates: dict[int, float] = field(default_factory=lambda: dict(_PRIOR))
    _gram: int = MAX_GRAM
    _expected: deque[int] = field(default_factory=deque)

    def propose(self, tokens: Sequence[int], limit: int) -> tuple[int, ...]:
        """Up to `limit` tokens to send behind the last one; none where that does not pay."""
        found = self._lookup.find(tokens)
        self._expected.clear()
        if found is None:
            return ()
        self._gram, follows = found
        length = best_length(self._rates[self._gram], self.row_cost, limit)
        guess = copied(tokens, follows, max(1, length))
        self._expected.extend(guess)
        return guess[:length]

    def observe(self, token: int) -> None:
        """The token that came next: what it says of the last guess."""
        if not self._expected:
            return
        is_right = token == self._expected.popleft()
        if not is_right:
            self._expected.clear()
        self._rates[self._gram] += _WEIGHT * (is_right - self._rates[self._gram])


def best_length(rate: float, row_cost: float, limit: int) -> int:
    """How many tokens to guess, each right with probability `rate` if all before it were.

    With d of them a frame gives 1 + rate + rate^2 + ... + rate^d tokens and takes
    1 + d * row_cost as long as without: the largest quotient, 0 where none is above 1.
    """
    best, best_gain, right, tokens = 0, 1.0, 1.0, 1.0
    for length in range(1, limit + 1):
        right *= rate
        tokens += right
        gain = tokens / (1 + length * row_cost)
        if gain <= best_gain:
            break
        best, best_gain = length, gain
    return best


def copied(tokens: Sequence[int], start: int, count: int) -> tuple[int, ...]:
    """`count` tokens from `start` on; behind the end of the history, the copies themselves."""
    copies: list[int] = []
    for index in range(start, start + count):
        copies.append(tokens[index] if index < len(tokens) else copies[index - len(tokens)])
    return tuple(copies)
