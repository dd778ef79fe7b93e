"""From a run's data to the batches of its orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgepipe.coordinator.orders import Batch, BoundaryCodecs
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_data.loading import Dataset
from edgepipe.core import work
from edgepipe.core.dataset import Example, microbatches
from edgepipe.core.schedule import Schedule
from edgepipe.core.shuffle import Cursor, next_batch
from edgepipe.core.training import Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """A step's batch, and how far the data is used once it is applied."""

    batch: Batch
    cursor: Cursor
    num_targets: int
    num_tokens: int
    padded_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Cuts batches for a schedule; one of fewer sequences has fewer microbatches."""

    dataset: Dataset
    num_sequences: int
    seed: int
    schedule: Schedule

    def step(self, step: int, cursor: Cursor, *, scale: float, codecs: BoundaryCodecs) -> StepBatch:
        """The batch of a step that takes its data from `cursor` on; losses are scaled by `scale`.

        The loss of a target counts for 1 / targets of the step.
        """
        examples = self.dataset.examples
        indices, after = next_batch(cursor, len(examples), self.num_sequences, seed=self.seed)
        chosen = [examples[index] for index in indices]
        num_targets = sum(example.num_targets for example in chosen)
        batch = self._batch(chosen, step, Purpose.TRAIN, scale / num_targets, codecs)
        return StepBatch(
            batch=batch,
            cursor=after,
            num_targets=num_targets,
            num_tokens=sum(map(len, chosen)),
            padded_tokens=sum(len(each) * max(map(len, each)) for each in batch.microbatches),
        )

    def evaluations(
        self, examples: Sequence[Example], step: int, codecs: BoundaryCodecs
    ) -> Iterator[Batch]:
        """Batches that together hold all examples once."""
        for start in range(0, len(examples), self.num_sequences):
            chosen = examples[start : start + self.num_sequences]
            yield self._batch(chosen, step, Purpose.EVALUATE, 1.0, codecs)

    def rehearsal(
        self, examples: Sequence[Example], step: int, *, scale: float, codecs: BoundaryCodecs
    ) -> Batch:
        """A batch whose gradients are compared, and never applied."""
        num_targets = sum(example.num_targets for example in examples)
        return self._batch(examples, step, Purpose.REHEARSE, scale / num_targets, codecs)

    def _batch(
        self,
        chosen: Sequence[Example],
        step: int,
        purpose: Purpose,
        loss_weight: float,
        codecs: BoundaryCodecs,
    ) -> Batch:
        count = min(self.schedule.num_microbatches, len(chosen))
        return Batch(
            step=step,
            purpose=purpose,
            microbatches=microbatches(chosen, count),
            schedule=self.schedule.first(count),
            loss_weight=loss_weight,
            codecs=codecs,
        )


def planned_batch(config: TrainConfig, dataset: Dataset, held_out: Dataset | None) -> work.Batch:
    """What a step is planned for: sequences, their average length, the longest, and the targets."""
    num_examples = len(dataset.examples)
    longest = max(max(map(len, each.examples)) for each in (dataset, held_out) if each is not None)
    sequences = min(config.batch.sequences, num_examples)
    wanted = config.batch.microbatches
    return work.Batch(
        mode=config.mode,
        sequences=sequences,
        sequence_length=-(-dataset.num_tokens // num_examples),
        longest=longest,
        learned=dataset.num_targets / dataset.num_tokens,
        rank=config.lora.rank if config.lora is not None else 1,
        microbatches=None if wanted is None else min(wanted, sequences),
        recompute=config.plan.recompute,
    )
