"""What a step is planned for, from a run's config and data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgepipe.coordinator.train_batches import planned_batch
from edgepipe.coordinator.train_config_file import parse_train_config
from edgepipe.coordinator.train_data.loading import Dataset
from edgepipe.core.dataset import Example
from edgepipe.core.training import IGNORED

CONFIG = parse_train_config(
    'model = "cat"\n[data]\npath = "cats.jsonl"\n[batch]\nsequences = 4\n', Path("/cat.toml"), ()
)


def dataset(*sizes: tuple[int, int]) -> Dataset:
    """Examples of so many tokens, so many of which have a target."""
    return Dataset(
        examples=tuple(_example(*each) for each in sizes),
        num_documents=len(sizes),
        num_cut=0,
        num_dropped=0,
    )


def _example(num_tokens: int, num_targets: int) -> Example:
    targets: Sequence[int] = [IGNORED] * (num_tokens - num_targets) + [1] * num_targets
    return Example(
        token_ids=np.ones(num_tokens, dtype=np.int32), targets=np.array(targets, dtype=np.int32)
    )


def test_time_is_for_the_average_and_memory_for_the_longest() -> None:
    batch = planned_batch(CONFIG, dataset((8, 7), (5, 4)), dataset((9, 8)))
    assert (batch.sequence_length, batch.longest) == (7, 9)
    assert batch.sequences == 2, "no more than there are"


def test_the_head_is_planned_for_what_is_learned() -> None:
    batch = planned_batch(CONFIG, dataset((10, 2), (6, 2)), None)
    assert batch.learned == 0.25
