"""Which examples a step takes: a shuffle per epoch, and a cursor that a checkpoint keeps.

An order is what sorting one raw 64-bit draw per example gives. The draws are numpy's PCG64, seeded
by `SeedSequence((purpose, seed, number))`, with the epoch's number, or the file's: numpy promises
that this stream stays as it is (NEP 19), which `Generator.permutation` does not. So a seed, a
number of examples and a cursor say what comes next, on any machine.

    epoch 0   4 1 0 │ 3 2          batches of three; the last of an epoch is what is left
    epoch 1   2 0 3 │ 4 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class _Purpose(IntEnum):
    """Keeps draws for different ends apart: a split must not follow from an epoch's order."""

    EPOCH = 0
    HELD_OUT = 1
    PASSAGE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """How far training has come in its data: `position` examples of epoch `epoch` are taken."""

    epoch: int = 0
    position: int = 0

    def to_json(self) -> dict[str, int]:
        """As a checkpoint's manifest holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Cursor:
        """Raises ValueError where `value` is not what to_json gave."""
        epoch, position = value.get("epoch"), value.get("position")
        if type(epoch) is not int or type(position) is not int or min(epoch, position) < 0:
            raise ValueError(f"A data cursor is an epoch and a position, not {dict(value)}.")
        return cls(epoch=epoch, position=position)


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> NDArray[np.intp]:
    """Every example's index once, [num_examples], for this epoch. `seed` and `epoch` are ≥ 0."""
    return _order(num_examples, _Purpose.EPOCH, seed, epoch)


def next_batch(
    cursor: Cursor, num_examples: int, batch_size: int, *, seed: int
) -> tuple[tuple[int, ...], Cursor]:
    """The examples of the next step, never none, and the cursor after it.

    Every example comes once an epoch; an epoch's last batch is smaller where it does not divide.
    A position at or past the end, as a cursor of a larger dataset may have, starts the next epoch.

    Raises:
        ValueError: there are no examples, or the batch would be empty.
    """
    if num_examples < 1 or batch_size < 1:
        raise ValueError(f"No batch of {batch_size} can be taken from {num_examples} examples.")
    start = cursor
    if cursor.position >= num_examples:
        start = Cursor(epoch=cursor.epoch + 1)
    stop = min(start.position + batch_size, num_examples)
    order = epoch_order(num_examples, seed=seed, epoch=start.epoch)
    following = Cursor(epoch=start.epoch, position=stop)
    if stop == num_examples:
        following = Cursor(epoch=start.epoch + 1)
    return tuple(order[start.position : stop].tolist()), following


def held_out(num_examples: int, fraction: float, *, seed: int) -> frozenset[int]:
    """The indices that training never sees: at least one and never all, where there are two.

    `fraction` is over 0 and under 1. Fewer than two examples cannot be divided: none is held out.
    """
    num_held_out = _num_held_out(num_examples, fraction)
    return frozenset(_order(num_examples, _Purpose.HELD_OUT, seed, 0)[:num_held_out].tolist())


def held_out_passage(num_paragraphs: int, fraction: float, *, seed: int, file: int) -> range:
    """The same of a running text: consecutive paragraphs, their place chosen by the seed."""
    num_held_out = _num_held_out(num_paragraphs, fraction)
    last_start = num_paragraphs - num_held_out
    start = int(_order(last_start + 1, _Purpose.PASSAGE, seed, file)[0])
    return range(start, start + num_held_out)


def _num_held_out(num_examples: int, fraction: float) -> int:
    if num_examples < 2:
        return 0
    return min(max(1, round(num_examples * fraction)), num_examples - 1)


def _order(length: int, purpose: _Purpose, seed: int, number: int) -> NDArray[np.intp]:
    generator = np.random.PCG64(np.random.SeedSequence((purpose, seed, number)))
    return np.argsort(generator.random_raw(length), kind="stable")
