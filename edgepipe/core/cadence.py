"""What a training run does after which steps, besides training."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadence:
    """A run of `num_steps`; every so many steps, and at the end; 0 is at the end alone."""

    num_steps: int
    eval_every: int
    checkpoint_every: int

    def evaluates(self, step: int) -> bool:
        """Whether the held-out loss is told after a step."""
        return self._is_due(self.eval_every, step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is written after a step."""
        return self._is_due(self.checkpoint_every, step)

    def _is_due(self, every: int, step: int) -> bool:
        return step == self.num_steps or (every > 0 and step % every == 0)
