"""The learning rate of every step: a warm-up to the peak, then a decay to nothing.

step        1     2     3     4     5     6     7     8      peak 1, warmup_steps 4
linear      0.25  0.50  0.75  1     0.75  0.50  0.25  0
cosine      0.25  0.50  0.75  1     0.85  0.50  0.15  0
constant    0.25  0.50  0.75  1     1     1     1     1
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


class Decay(StrEnum):
    """How the learning rate falls after the warm-up."""

    COSINE = "cosine"
    LINEAR = "linear"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRate:
    """A run of `num_steps`; step `warmup_steps` (step 1 without a warm-up) has the peak."""

    peak: float
    num_steps: int
    warmup_steps: int = 0
    decay: Decay = Decay.COSINE

    def at(self, step: int) -> float:
        """Of a step from 1 to `num_steps`."""
        assert 1 <= step <= self.num_steps, step
        top = max(self.warmup_steps, 1)
        if step <= top:
            return self.peak * step / top
        return self.peak * self._share((step - top) / (self.num_steps - top))

    def _share(self, progress: float) -> float:
        """What is left of the peak; `progress` is in (0, 1]."""
        match self.decay:
            case Decay.COSINE:
                return (1 + math.cos(math.pi * progress)) / 2
            case Decay.LINEAR:
                return 1 - progress
            case Decay.CONSTANT:
                return 1.0
            case _:
                assert_never(self.decay)
