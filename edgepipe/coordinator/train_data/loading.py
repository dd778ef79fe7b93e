"""A training run's data, from files to examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgepipe.coordinator.background import in_background
from edgepipe.coordinator.text import Tokenizer
from edgepipe.coordinator.train_config import DataConfig
from edgepipe.coordinator.train_data.division import divide
from edgepipe.coordinator.train_data.document import Document
from edgepipe.coordinator.train_data.files import read_documents
from edgepipe.coordinator.train_data.tokens import OnProgress, tokenise
from edgepipe.core.dataset import Example, pack
from edgepipe.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Examples that something is learned from, and what became of the documents.

    Attributes:
        examples: one or more, each with a target and at most `sequence_length` tokens.
        num_documents: that were read; a plain text counts once, or for the passages left of it.
        num_cut: examples that lost their end; 0 where rows are packed.
        num_dropped: examples without a target, or rows where they are packed.
    """

    examples: tuple[Example, ...]
    num_documents: int
    num_cut: int
    num_dropped: int

    @property
    def num_tokens(self) -> int:
        """Tokens of an epoch."""
        return sum(map(len, self.examples))

    @property
    def num_targets(self) -> int:
        """Tokens of an epoch that something is learned from."""
        return sum(example.num_targets for example in self.examples)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What is learned from, and what is evaluated on, if anything is."""

    train: Dataset
    held_out: Dataset | None


async def load_data(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    seed: int,
    on_progress: OnProgress = lambda _done, _total: None,
) -> TrainingData:
    """Read, divide and tokenise a run's data, off the event loop.

    Args:
        config: which files, and what is made of them. With packing, documents lie one after
            another in rows of `sequence_length` tokens, and a plain text is one document. Without,
            each document is an example, cut where it is longer, and so is each paragraph of a
            plain text.
        tokenizer: the model's.
        seed: the run's, 0 or more; it decides what is held out.
        on_progress: called from the thread that tokenises, for training and held-out documents in
            turn.

    Raises:
        UsageError: a file or line that is not what it should be, or nothing to learn from.
        ModelError: the model's tokenizer cannot do what the data needs.
    """
    return await in_background(lambda: _load(config, tokenizer, seed, on_progress))


def _load(
    config: DataConfig, tokenizer: Tokenizer, seed: int, on_progress: OnProgress
) -> TrainingData:
    documents, evaluated = _read(config, seed)
    train = _dataset(documents, config, tokenizer, on_progress)
    if not train.examples:
        raise UsageError(
            f"{_named(config.path)}: there is nothing to learn from in the first "
            f"{config.sequence_length} tokens of any example: add texts or assistant's turns, or "
            "raise sequence_length."
        )
    if evaluated is None:
        return TrainingData(train=train, held_out=None)
    held_out = _dataset(evaluated, config, tokenizer, on_progress)
    if not held_out.examples:
        raise UsageError(
            f"{config.eval_path or _named(config.path)}: there is nothing to evaluate in what is "
            "held out: raise eval_fraction, name another eval_path, or set eval_fraction to 0."
        )
    return TrainingData(train=train, held_out=held_out)


def _read(
    config: DataConfig, seed: int
) -> tuple[tuple[Document, ...], tuple[Document, ...] | None]:
    documents = read_documents(config.path, config.format)
    if config.eval_path is not None:
        return documents, read_documents((config.eval_path,), config.format)
    if config.eval_fraction:
        return divide(documents, config.eval_fraction, seed=seed)
    return documents, None


def _dataset(
    documents: Sequence[Document],
    config: DataConfig,
    tokenizer: Tokenizer,
    on_progress: OnProgress,
) -> Dataset:
    whole = tokenise(documents, tokenizer, packing=config.packing, on_progress=on_progress)
    longest = config.sequence_length
    rows = pack(whole, longest) if config.packing else [each.cut(0, longest) for each in whole]
    examples = tuple(row for row in rows if row.num_targets)
    return Dataset(
        examples=examples,
        num_documents=len(documents),
        num_cut=0 if config.packing else sum(len(each) > longest for each in whole),
        num_dropped=len(rows) - len(examples),
    )


def _named(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return f"{paths[0]}{more}"
