"""Loss scaling for float16 (Micikevicius et al. 2018): small gradients must not vanish.

The loss is multiplied by the scale before the backward, and the gradients are divided by it.

    65536 ──not finite──▶ 32768 ──2000 good steps──▶ 65536
"""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_SCALE = 2.0**16
MIN_SCALE = 1.0
GROWTH_STEPS = 2000
"""As torch.amp.GradScaler has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossScale:
    """The scale of a step, and the steps since it last changed."""

    scale: float = FIRST_SCALE
    good_steps: int = 0

    @property
    def is_least(self) -> bool:
        """A step that is not finite at this scale is not the scale's fault."""
        return self.scale <= MIN_SCALE

    def next(self, *, finite: bool) -> LossScale:
        """Of the step after one whose gradients were all finite, or were not."""
        if not finite:
            return LossScale(scale=max(self.scale / 2, MIN_SCALE))
        if self.good_steps + 1 == GROWTH_STEPS:
            return LossScale(scale=self.scale * 2)
        return replace(self, good_steps=self.good_steps + 1)
