"""A plan for training, run by the schedule of the user's choice."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish


def schedule_of(plan: Plan, wish: Wish) -> Schedule:
    """The actions of a step; for 1f1b-k with the depths that were planned. Raises UsageError."""
    depths = [stage.inflight for stage in plan.stages]
    return wish.schedule(len(plan.stages), plan.microbatches, depths)


def rescheduled(plan: Plan, schedule: Schedule) -> Plan:
    """The plan, with the microbatches in flight and the memory that the schedule takes.

    What it was predicted to do holds for 1f1b-k, and for a schedule that is as good. A plan that
    no longer fits says by how much.
    """
    stages = tuple(
        _with_depth(stage, schedule.inflight(at)) for at, stage in enumerate(plan.stages)
    )
    short_by = sum(max(0, each.memory_bytes - each.memory_limit_bytes) for each in stages)
    return replace(
        plan, stages=stages, feasible=plan.feasible and not short_by, short_by_bytes=short_by
    )


def _with_depth(stage: Stage, inflight: int) -> Stage:
    each = stage.inflight_bytes // max(1, stage.inflight)
    more = (inflight - stage.inflight) * each
    return replace(
        stage,
        inflight=inflight,
        inflight_bytes=stage.inflight_bytes + more,
        memory_bytes=stage.memory_bytes + more,
    )
