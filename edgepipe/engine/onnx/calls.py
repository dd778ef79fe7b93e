"""Spans become calls of the session: one token of a run of slots, or many tokens of one slot.

    spans of slots   5 (1 token), 2 (1 token), 3 (9 tokens), 1 (1 token)
    calls            slots 1..2, slot 5, and slot 3 with 9 tokens

A run of slots is a view of the caches. A short gap in it is computed along: an idle row costs less
than the weights read once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgepipe.core.frame import Span

MAX_GAP = 2
"""Idle rows that are computed along between two rows of a call. A call's fixed part, the reading
of the weights, was measured at two to three rows' own part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """`tokens` tokens in each of the slots from `first` on, one slot for each row.

    `places` gives each row's span among all spans, None for an idle row; `offsets` the first
    packed row that it is fed, an idle row that of the row before.
    """

    first: int
    tokens: int
    places: tuple[int | None, ...]
    offsets: tuple[int, ...]


def calls_of(spans: Sequence[Span]) -> Iterator[Call]:
    """The calls that compute the spans, each span once."""
    offsets = [0, *accumulate(span.count for span in spans)]
    order = sorted(range(len(spans)), key=lambda place: spans[place].slot)
    for run in _runs(spans, [place for place in order if spans[place].count == 1]):
        yield _run(spans, run, offsets)
    for place, span in enumerate(spans):
        if span.count > 1:
            yield Call(
                first=span.slot, tokens=span.count, places=(place,), offsets=(offsets[place],)
            )


def _runs(spans: Sequence[Span], places: Sequence[int]) -> Iterator[list[int]]:
    """Places in the order of their slots, cut where a gap is too long to be bridged."""
    run: list[int] = []
    for place in places:
        if run and spans[place].slot - spans[run[-1]].slot > MAX_GAP + 1:
            yield run
            run = []
        run.append(place)
    if run:
        yield run


def _run(spans: Sequence[Span], run: Sequence[int], offsets: Sequence[int]) -> Call:
    first = spans[run[0]].slot
    places: list[int | None] = []
    fed: list[int] = []
    for place in run:
        gap = spans[place].slot - first - len(places)
        places += [*[None] * gap, place]
        fed += [*[fed[-1]] * gap, offsets[place]] if gap else [offsets[place]]
    return Call(first=first, tokens=1, places=tuple(places), offsets=tuple(fed))


def is_one_run(spans: Sequence[Span]) -> bool:
    """Whether the packed rows are a call's rows as they lie."""
    first = spans[0].slot
    return all(span.count == 1 and span.slot == first + row for row, span in enumerate(spans))
