"""The tokens that a frame's logits give.

Behind the last accepted token a frame may hold guesses of what follows it. Each row is sampled as
if it were alone, so the tokens are those of a frame for each, whatever was guessed:

    fed       a    b    c    d         guesses b, c, d
    sampled   b    c    x    -         b and c were right; x is new, and d's row means nothing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from edgepipe.core.sampling import Choice, Logits, Sampling, sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What to sample of a frame's span: a token for `position`, and one more per right guess.

    `counts` are the tokens of the answer so far, read until the draw is recorded.
    """

    span: int
    position: int
    sampling: Sampling
    drafts: tuple[int, ...] = ()
    counts: Mapping[int, int] = field(default_factory=dict)


def draw_all(
    logits: Logits, draws: Sequence[Draw], rows: Sequence[int]
) -> tuple[tuple[Choice, ...], ...]:
    """The tokens of every draw, those of a draw with guesses up to the first wrong one.

    Args:
        logits: float32 [rows, vocab].
        draws: what to sample.
        rows: each draw's first row; its guesses' rows follow it.

    Raises:
        StageError: logits are not finite.
    """
    return tuple(
        tuple(_choices(logits[first:], draw)) for draw, first in zip(draws, rows, strict=True)
    )


def _choices(logits: Logits, draw: Draw) -> Iterator[Choice]:
    counts = draw.counts
    for index, guess in enumerate((*draw.drafts, None)):
        choice = sample(logits[index], draw.sampling, draw.position + index, counts)
        yield choice
        if choice.token != guess:
            return
        counts = {**counts, choice.token: counts.get(choice.token, 0) + 1}
