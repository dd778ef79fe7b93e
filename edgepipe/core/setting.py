"""What a plan chooses besides the placement: decode groups, microbatches, recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from edgepipe.core.goal import Goal, Latency, Prefill, Throughput, Train
from edgepipe.core.work import Batch, Objective, Work

MAX_MICROBATCHES = 32
"""More of them mean smaller products and gain nothing against the deepest home pipeline."""

_NUM_GROUPS = (*range(1, 9), *range(10, 17, 2), *range(20, 33, 4))
"""Every group reads all weights again, and the longest home ring is full with as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One choice of all that is not the placement."""

    objective: Objective
    num_groups: int = 1
    group_size: int = 1
    num_chunks: int = 1
    num_microbatches: int = 1
    recompute: bool = False

    def goal(self, fixed_s: float) -> Goal:
        """What a placement is searched for; `fixed_s` is what a training step takes besides."""
        match self.objective:
            case Objective.LATENCY:
                return Latency()
            case Objective.THROUGHPUT:
                return Throughput(num_groups=self.num_groups, group_size=self.group_size)
            case Objective.PREFILL:
                return Prefill(num_chunks=self.num_chunks)
            case Objective.TRAIN:
                return Train(num_microbatches=self.num_microbatches, fixed_s=fixed_s)
            case _:
                assert_never(self.objective)

    def weight(self, work: Work) -> float:
        """Makes the goals' seconds of different settings comparable, as a factor.

        Seconds of a group become those of a token, where groups share out the slots.
        """
        if self.objective is not Objective.THROUGHPUT:
            return 1.0
        return self.num_groups / work.workload.num_slots


def settings_of(work: Work) -> tuple[Setting, ...]:
    """Every setting to look at, the most promising first."""
    match work.objective:
        case Objective.LATENCY:
            return (Setting(objective=work.objective),)
        case Objective.THROUGHPUT:
            return tuple(_grouped(work.workload.num_slots))
        case Objective.PREFILL:
            return (Setting(objective=work.objective, num_chunks=work.num_chunks),)
        case Objective.TRAIN:
            assert work.batch is not None
            return tuple(_trained(work.batch))
        case _:
            assert_never(work.objective)


def _grouped(slots: int) -> Iterator[Setting]:
    """Each size of a group once, in as few groups as it takes; of many groups only some numbers."""
    most = min(slots, _NUM_GROUPS[-1])
    counts = {most, *(count for count in _NUM_GROUPS if count < most)}
    sizes = sorted({-(-slots // count) for count in counts})
    for size in sizes:
        yield Setting(
            objective=Objective.THROUGHPUT,
            num_groups=-(-slots // size),
            group_size=size,
        )


def _trained(batch: Batch) -> Iterator[Setting]:
    """Microbatches of equal size, with recomputation last: it only saves memory."""
    counts = [
        count
        for count in range(min(batch.sequences, MAX_MICROBATCHES), 0, -1)
        if batch.sequences % count == 0
    ]
    if batch.microbatches is not None:
        counts = [batch.microbatches]
    for recompute in (False, True) if batch.recompute is None else (batch.recompute,):
        for count in counts:
            yield Setting(
                objective=Objective.TRAIN,
                num_microbatches=count,
                recompute=recompute,
            )
