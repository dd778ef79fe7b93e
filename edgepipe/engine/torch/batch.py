"""Spans become the rectangles of tokens that a model is called with.

    spans                 one batch, two rows of three tokens; the packed rows they hold
    slot 4: 3 tokens      [[0, 1, 2],
    slot 5: 1 token        [3, 3, 3]]      padded on the left by the row's own first token

A pad repeats its row's first token at the same position. So it sees, computes and caches what
that token does, and nothing has to be masked, dropped or kept from the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from edgepipe.core.frame import Span

MAX_PADDED_TOKENS = 8
"""Spans up to here share one padded call, for they are bound by the reading of the weights.
Longer ones are bound by arithmetic, and run alone without any padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of equal length.

    `order` are the spans' places among all spans of the call, `offsets` their first packed rows.
    """

    spans: tuple[Span, ...]
    order: tuple[int, ...]
    offsets: tuple[int, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens per row."""
        return max(span.count for span in self.spans)

    @property
    def end(self) -> int:
        """The first position after every span."""
        return max(span.end for span in self.spans)

    def rows(self) -> torch.Tensor:
        """The packed row of every token, int64 [rows, tokens]."""
        return torch.tensor(self.offsets)[:, None] + self._steps()

    def positions(self) -> torch.Tensor:
        """The position of every token, int64 [rows, tokens]."""
        return torch.tensor([span.start for span in self.spans])[:, None] + self._steps()

    def _steps(self) -> torch.Tensor:
        counts = torch.tensor([span.count for span in self.spans])[:, None]
        return (torch.arange(self.num_tokens) - self.num_tokens + counts).clamp(min=0)


def batches(spans: Sequence[Span], *, together: bool) -> Iterator[Batch]:
    """Split the spans of a call into batches; `together` lets short spans share one.

    Rows are sorted by slot, so that a run of slots is a view of the cache.
    """
    offsets = [0, *accumulate(span.count for span in spans)]
    places = sorted(range(len(spans)), key=lambda place: spans[place].slot)
    short = [place for place in places if together and spans[place].count <= MAX_PADDED_TOKENS]
    alone = [[place] for place in places if place not in short]
    for group in ([short] if short else []) + alone:
        yield Batch(
            spans=tuple(spans[place] for place in group),
            order=tuple(group),
            offsets=tuple(offsets[place] for place in group),
        )
