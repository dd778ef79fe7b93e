"""A plan as a program sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgepipe.core.advice import plan_document
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.plan_text import plan_text
from edgepipe.core.prediction import Prediction


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Who would run which layers; `str` of it is a table and what is predicted.

    `plan` is all there is to know.
    """

    plan: Plan

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In pipeline order: `node`, `device`, layers `first` to `end`, memory in bytes."""
        return self.plan.stages

    @property
    def predicted(self) -> Prediction | None:
        """`tokens_per_s`, `ttft_s` or `step_s`, `bubble`, `bottleneck`; None if it is too large."""
        return self.plan.predicted

    @property
    def feasible(self) -> bool:
        """Whether the model fits."""
        return self.plan.feasible

    def to_json(self) -> dict[str, Any]:
        """The document of `edgepipe plan --json`, see docs/plan.md."""
        return plan_document(self.plan)

    def __str__(self) -> str:
        return plan_text(self.plan)
