"""When a codec costs too much of the loss: it steps up to the next less lossy one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgepipe.core.compression import LOSSY_ORDER
from edgepipe.core.frame import Codec, DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.work import TrainMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """Every so many steps (0: never) one microbatch's loss is compared, with codecs and without."""

    every: int
    threshold: float

    def is_due(self, step: int) -> bool:
        """Whether the codecs are checked after a step."""
        return self.every > 0 and step % self.every == 0

    def error(self, coded: float, plain: float) -> float:
        """The relative difference of the loss."""
        return abs(coded - plain) / max(abs(plain), 1e-12)

    def is_over(self, error: float) -> bool:
        """Whether codecs have to step up; also where the loss is no number."""
        return not error <= self.threshold


def stepped_up(codec: Codec) -> Codec:
    """The next less lossy codec; `none` stays."""
    return LOSSY_ORDER[max(0, LOSSY_ORDER.index(codec) - 1)]


def cosine(dot: float, *sums_of_squares: float) -> float:
    """Of two gradients: 1 where they point the same way; 0 where one is nothing."""
    norms = math.sqrt(math.prod(sums_of_squares))
    return dot / norms if norms else 0.0


def has_room_for_gradients(plan: Plan, mode: TrainMode) -> bool:
    """Whether every stage can hold its gradients twice; adapters' are small."""
    if mode is TrainMode.LORA:
        return True
    itemsize = plan.inputs.dtype.itemsize
    return all(
        stage.memory_bytes + stage.weight_bytes // itemsize * DType.FLOAT32.itemsize
        <= stage.memory_limit_bytes
        for stage in plan.stages
    )
