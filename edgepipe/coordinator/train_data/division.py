"""A part of the documents is held out, to tell how much was learned and not only memorised."""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.coordinator.train_data.document import Document, Passage
from edgepipe.core.shuffle import held_out, held_out_passage


def divide(
    documents: Sequence[Document], fraction: float, *, seed: int
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """What is trained on, and what is held out; the same for the same seed.

    Of lines of JSONL some are chosen, of a plain text a passage of consecutive paragraphs: in
    training, what stood before and behind it are then two texts.
    """
    lines = [document for document in documents if not isinstance(document, Passage)]
    chosen = held_out(len(lines), fraction, seed=seed)
    train: list[Document] = [each for at, each in enumerate(lines) if at not in chosen]
    evaluated: list[Document] = [lines[at] for at in sorted(chosen)]
    passages = (document for document in documents if isinstance(document, Passage))
    for number, passage in enumerate(passages):
        cut = held_out_passage(len(passage.paragraphs), fraction, seed=seed, file=number)
        train += _parts(passage, range(cut.start), range(cut.stop, len(passage.paragraphs)))
        evaluated += _parts(passage, cut)
    return tuple(train), tuple(evaluated)


def _parts(passage: Passage, *ranges: range) -> list[Passage]:
    """Those of the ranges that are not empty."""
    return [
        Passage(origin=passage.origin, paragraphs=passage.paragraphs[each.start : each.stop])
        for each in ranges
        if each
    ]
