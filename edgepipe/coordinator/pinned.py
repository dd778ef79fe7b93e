"""A plan that the user gave, as far as it is for what is to be done."""

from __future__ import annotations

from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.remedy import require_fit
from edgepipe.core.work import Objective
from edgepipe.errors import PlanError


def pinned_plan(
    pinned: Plan,
    shape: ModelShape,
    max_positions: int,
    objective: Objective,
    engine: str | None = None,
) -> Plan:
    """The plan that the user gave; `engine` is the one that all stages shall have, if any.

    Raises PlanError where it is for something else, DoesNotFit.
    """
    if (pinned.objective is Objective.TRAIN) != (objective is Objective.TRAIN):
        raise PlanError(
            f"the plan was made for --objective {pinned.objective}: plan anew with "
            f"--objective {objective}"
        )
    if pinned.model != shape.name or pinned.num_layers != shape.num_layers:
        raise PlanError(f"the plan is for {pinned.model}, not for {shape.name}: plan anew")
    if pinned.inputs.max_positions < max_positions:
        raise PlanError(
            f"the plan keeps {pinned.inputs.max_positions} tokens per sequence, "
            f"and {max_positions} are wanted: plan anew with --context {max_positions}"
        )
    others = {stage.engine for stage in pinned.stages} - {engine}
    if engine is not None and others:
        raise PlanError(
            f"the plan was made for the engine {min(others)}: leave out --engine, or plan anew "
            f"with --engine {engine}"
        )
    require_fit(pinned)
    return pinned
