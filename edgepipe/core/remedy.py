"""What to say of a plan that does not fit."""

from __future__ import annotations

from typing import assert_never

from edgepipe.core.fit import Shortage
from edgepipe.core.pipeline import Plan
from edgepipe.core.schedule import ScheduleName
from edgepipe.core.size import human_size
from edgepipe.core.work import Objective
from edgepipe.errors import DoesNotFit


def require_fit(plan: Plan, *, schedule: str | None = None) -> None:
    """Raises DoesNotFit where memory is short: how much is missing, where, and what would help.

    `schedule` is one by which a plan does not fit that fitted by its own, 1f1b-k.
    """
    if plan.feasible:
        return
    missing = ", ".join(_missing(shortage) for shortage in plan.shortages)
    remedy = _remedy(plan) if schedule is None else _schedule_remedy(plan, schedule)
    raise DoesNotFit(f"{plan.model} needs {missing}; {remedy}", short_by_bytes=plan.short_by_bytes)


def _missing(shortage: Shortage) -> str:
    more, needed, limit = (
        human_size(size)
        for size in (shortage.short_by_bytes, shortage.needed_bytes, shortage.limit_bytes)
    )
    place = f"{shortage.node} ({' and '.join(shortage.devices)})"
    return f"{more} more on {place}: {needed} of {limit}"


def _remedy(plan: Plan) -> str:
    """Slots and context help only where the weights alone would fit."""
    match plan.objective:
        case Objective.TRAIN:
            return "shorter sequences, LoRA, or another machine would help"
        case Objective.LATENCY | Objective.THROUGHPUT | Objective.PREFILL:
            if all(_weights_fit(plan, shortage) for shortage in plan.shortages):
                return "fewer slots, a shorter context, or another machine would help"
            return "another machine or a smaller dtype would help"
        case _:
            assert_never(plan.objective)


def _schedule_remedy(plan: Plan, schedule: str) -> str:
    """Activations that are computed again take no memory meanwhile."""
    most = max(stage.inflight for stage in plan.stages)
    again = "" if plan.recompute else ", and recompute = true makes it need less"
    return (
        f"the schedule {schedule} has {most} microbatches in flight: "
        f'schedule = "{ScheduleName.ONE_F_ONE_B_K}" in [plan] fits{again}'
    )


def _weights_fit(plan: Plan, shortage: Shortage) -> bool:
    spare = sum(
        stage.kv_bytes + stage.workspace_bytes
        for stage in plan.stages
        if stage.node == shortage.node and stage.device in shortage.devices
    )
    return spare >= shortage.short_by_bytes
