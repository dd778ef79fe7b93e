"""What a training run's steps took, beside what was predicted of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepipe.coordinator.train_loop import StepDone
from edgepipe.core.comparison import Comparison, compare_step
from edgepipe.core.pipeline import Plan

MIN_STEPS = 3
"""Fewer say little of a profile."""
WARM_UP_STEPS = 1
"""The first one also loads, allocates and connects."""


@dataclass(slots=True, kw_only=True)
class StepWatch:
    """Compares every step of a run, but those that warm up."""

    plan: Plan
    _seen: list[Comparison] = field(default_factory=list)
    _num_steps: int = 0

    def take(self, done: StepDone) -> None:
        """A step is over."""
        self._num_steps += 1
        predicted = self.plan.predicted
        whole_s = None if predicted is None else predicted.step_s
        if whole_s and done.metrics.predicted_step_s and self._num_steps > WARM_UP_STEPS:
            self._seen.append(_compared(self.plan, done, whole_s))

    @property
    def median(self) -> Comparison | None:
        """The step whose error is the median; None of too few, or without a prediction.

        Of an even number the better of the two in the middle: a doubt is no reason to blame.
        """
        count = len(self._seen)
        if count < MIN_STEPS:
            return None
        ordered = sorted(self._seen, key=lambda each: each.error)
        return min(ordered[(count - 1) // 2 : count // 2 + 1], key=lambda each: abs(each.error))


def _compared(plan: Plan, done: StepDone, whole_s: float) -> Comparison:
    """A step holds more tokens than planned, or fewer."""
    metrics, reports = done.metrics, done.reports
    share = metrics.predicted_step_s / whole_s
    return compare_step(
        predicted_s=metrics.predicted_step_s,
        measured_s=metrics.step_s,
        planned_s=[
            share * plan.microbatches * (stage.forward_s + stage.backward_s)
            for stage in plan.stages
        ],
        stage_s=[report.forward_s + report.backward_s for report in reports],
        num_microbatches=len(reports[-1].loss_sums),
    )
