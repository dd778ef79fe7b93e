"""The tokens that a frame's logits give.

Behind the last accepted token a frame may hold guesses of what follows it. Each row is sampled as
if it were alone, so the tokens are those of a frame for each, whatever was guessed:

    fed       a    b    c    d         guesses b, c, d
    sampled   b    c    x    -         b and c were right; x is new, and d's row means nothing
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

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
    plain = [
        row
        for draw, first in zip(draws, rows, strict=True)
        if _is_plain(draw.sampling)
        for row in range(first, first + 1 + len(draw.drafts))
    ]
    greedy = _greedy(logits, plain)
    return tuple(
        tuple(_choices(logits, draw, first, greedy))
        for draw, first in zip(draws, rows, strict=True)
    )


def _choices(
    logits: Logits, draw: Draw, first: int, greedy: Mapping[int, Choice]
) -> Iterator[Choice]:
    counts = Counter(draw.counts)
    for index, guess in enumerate((*draw.drafts, None)):
        row = first + index
        choice = greedy.get(row) or sample(
            logits[row], draw.sampling, draw.position + index, counts
        )
        yield choice
        if choice.token != guess:
            return
        counts[choice.token] += 1


def _is_plain(sampling: Sampling) -> bool:
    """The likeliest token, and nothing else is asked."""
    return sampling.temperature == 0 and not (
        sampling.penalises or sampling.logit_bias or sampling.num_likely
    )


@np.errstate(over="ignore")  # a difference too large for a float is -inf, which is meant
def _greedy(logits: Logits, rows: Sequence[int]) -> dict[int, Choice]:
    """What `sample` gives for plain rows, at once; rows that are not finite are left to it."""
    if not rows:
        return {}
    chosen = logits if len(rows) == len(logits) else logits[list(rows)]
    tokens = chosen.argmax(-1)
    tops = chosen[np.arange(len(rows)), tokens]
    if not np.isfinite(tops).all():
        return {}
    reach = np.subtract(chosen, tops[:, None])
    np.exp(reach, out=reach)
    logprobs = -np.log(reach.sum(-1))
    return {
        row: Choice(int(token), float(logprob), ())
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True)
    }
