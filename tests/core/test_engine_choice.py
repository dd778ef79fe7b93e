"""The faster engine, for what a plan is to be good at."""

from __future__ import annotations

import pytest

from edgepipe.core.engine_choice import faster
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed
from edgepipe.core.work import Objective, Work


def speed(engine: str, decode: tuple[float, float], prefill: float) -> DeviceSpeed:
    """Of one row and of eight; a chunk of 128."""
    item = ItemSpeed(
        decode=Curve(rows=(1, 8), seconds=decode), prefill=Curve(rows=(128,), seconds=(prefill,))
    )
    return DeviceSpeed(items=(ItemSpeed(), item, item, ItemSpeed()), engine=engine)


SPEEDS = (
    speed("good at many rows", (2.0, 3.0), 9.0),
    speed("good at one", (1.0, 8.0), 8.0),
    speed("good at prompts", (4.0, 8.0), 1.0),
)


@pytest.mark.parametrize(
    ("objective", "engine"),
    [
        (Objective.LATENCY, "good at one"),
        (Objective.THROUGHPUT, "good at many rows"),
        (Objective.PREFILL, "good at prompts"),
    ],
)
def test_the_faster_one_for_the_objective(objective: Objective, engine: str) -> None:
    workload = Workload(dtype=DType.FLOAT32, num_slots=8, max_positions=1024, prefill_chunk=128)
    assert faster(SPEEDS, Work(objective=objective, workload=workload)).engine == engine


def test_of_equals_the_first() -> None:
    workload = Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=64, prefill_chunk=16)
    both = (speed("first", (1.0, 2.0), 1.0), speed("second", (1.0, 2.0), 1.0))
    assert faster(both, Work(objective=Objective.LATENCY, workload=workload)).engine == "first"
