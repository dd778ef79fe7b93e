"""Tokenised examples: how they are cut, packed into rows, and dealt to microbatches.

Packed, documents lie one after another in rows of `sequence_length`, and only the tail is shorter:

    documents   a0 a1 a2 ·   b0 b1 ·   c0 c1 c2 c3 ·        · is the EOS that ends a document
    rows of 5   a0 a1 a2 ·  b0 │ b1 ·  c0 c1 c2 │ c3 ·
    targets     a1 a2 ·  __ b1 │ ·  __ c1 c2 c3 │ ·  __     __ is IGNORED

What follows a document says nothing about it, so its last token has no target; a token at the end
of a row does have one, the first token of the next row. Tokens of a row do see the documents
before theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgepipe.core.training import IGNORED

Item = TypeVar("Item")


class DataFormat(StrEnum):
    """What training files hold: `auto` decides by each file's name and content."""

    AUTO = "auto"
    TEXT = "text"
    MESSAGES = "messages"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """A sequence, n ≥ 1 tokens of it.

    Attributes:
        token_ids: int32 [n].
        targets: int32 [n]: `targets[t]` is the token after `token_ids[t]`, or IGNORED.
    """

    token_ids: NDArray[np.int32]
    targets: NDArray[np.int32]

    def __len__(self) -> int:
        """Tokens."""
        return len(self.token_ids)

    @property
    def num_targets(self) -> int:
        """Tokens that something is learned from."""
        return int(np.count_nonzero(self.targets != IGNORED))

    def cut(self, start: int, stop: int) -> Example:
        """Tokens from `start` up to `stop`, each with the target it has here."""
        return Example(token_ids=self.token_ids[start:stop], targets=self.targets[start:stop])


def example(token_ids: Sequence[int], learned: Sequence[bool] | None = None) -> Example:
    """A document's tokens, each with the next one as its target where that one is `learned`.

    Args:
        token_ids: one or more.
        learned: for each token whether it is to be predicted; None is all of them.
    """
    ids = np.asarray(token_ids, np.int32)
    targets = np.full_like(ids, IGNORED)
    mask = np.ones(len(ids), bool) if learned is None else np.asarray(learned, bool)
    targets[:-1] = np.where(mask[1:], ids[1:], IGNORED)
    return Example(token_ids=ids, targets=targets)


def pack(documents: Sequence[Example], sequence_length: int) -> tuple[Example, ...]:
    """Rows of exactly `sequence_length` tokens, the last one maybe shorter: every token, in order.

    A document that is to end with EOS brings it along.
    """
    if not documents:
        return ()
    whole = Example(
        token_ids=np.concatenate([document.token_ids for document in documents]),
        targets=np.concatenate([document.targets for document in documents]),
    )
    starts = range(0, len(whole), sequence_length)
    return tuple(whole.cut(start, start + sequence_length) for start in starts)


def microbatches(batch: Sequence[Item], num_microbatches: int) -> tuple[tuple[Item, ...], ...]:
    """A batch in this many parts, in order, as even as can be: the first ones are one larger.

    Raises:
        ValueError: a part would be empty.
    """
    if not 1 <= num_microbatches <= len(batch):
        raise ValueError(f"{len(batch)} sequences do not fill {num_microbatches} microbatches.")
    return tuple(_parts(batch, num_microbatches))


def _parts(batch: Sequence[Item], num_parts: int) -> Iterator[tuple[Item, ...]]:
    size, num_larger = divmod(len(batch), num_parts)
    start = 0
    for index in range(num_parts):
        stop = start + size + (index < num_larger)
        yield tuple(batch[start:stop])
        start = stop
