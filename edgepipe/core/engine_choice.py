"""Which engine a device runs a model with: the faster one, for what the plan is to be good at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from edgepipe.core.speed import DeviceSpeed, ItemSpeed
from edgepipe.core.work import Objective, Work


def faster(speeds: Sequence[DeviceSpeed], work: Work) -> DeviceSpeed:
    """The one that takes the whole model through the device in the fewest seconds; ties: the first.

    A single row where latency counts, a chunk of a prompt where prefill does, and half of the
    slots' rows where throughput does: a pipeline keeps two groups at least.
    """
    return min(speeds, key=lambda speed: sum(_seconds(item, work) for item in speed.items))


def _seconds(item: ItemSpeed, work: Work) -> float:
    match work.objective:
        case Objective.LATENCY:
            return item.decode.at(1)
        case Objective.THROUGHPUT:
            return item.decode.at(max(1, work.workload.num_slots // 2))
        case Objective.PREFILL:
            return item.prefill.at(work.chunk_rows)
        case Objective.TRAIN:
            return item.forward.at(1) + item.backward.at(1)
        case _:
            assert_never(work.objective)
