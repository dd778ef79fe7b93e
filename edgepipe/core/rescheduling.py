"""A plan for training, run by the schedule of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgepipe.core.fit import Claim, short_by_bytes, shortages
from edgepipe.core.outcome import play_by
from edgepipe.core.pinning import codecs_of, placed
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.posing import Asked, pose
from edgepipe.core.prediction import predict
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.setting import Setting


def schedule_of(plan: Plan, wish: Wish) -> Schedule:
    """The actions of a step; for 1f1b-k with the depths that were planned. Raises UsageError."""
    depths = [stage.inflight for stage in plan.stages]
    return wish.schedule(len(plan.stages), plan.microbatches, depths)


def rescheduled(plan: Plan, wish: Wish, asked: Asked | None = None) -> Plan:
    """The plan, with the microbatches in flight, memory and prediction of the schedule it runs by.

    Without all that it was made from, `asked`, nothing is predicted of another schedule. A plan
    that no longer fits says by how much, and where. Raises UsageError for another plan's actions.
    """
    schedule = schedule_of(plan, wish)
    if not plan.feasible or schedule == schedule_of(plan, Wish()):
        return plan
    stages = tuple(
        _with_depth(stage, schedule.inflight(at)) for at, stage in enumerate(plan.stages)
    )
    claims = _claims(plan, stages)
    missing = shortages(claims)
    found = replace(
        plan,
        stages=stages,
        feasible=not missing,
        shortages=missing,
        short_by_bytes=short_by_bytes(claims),
        predicted=None,
    )
    return found if asked is None or missing else _predicted(asked, found, wish)


def _with_depth(stage: Stage, inflight: int) -> Stage:
    each = stage.inflight_bytes // max(1, stage.inflight)
    more = (inflight - stage.inflight) * each
    return replace(
        stage,
        inflight=inflight,
        inflight_bytes=stage.inflight_bytes + more,
        memory_bytes=stage.memory_bytes + more,
        predicted_busy=0.0,
    )


def _claims(plan: Plan, stages: Sequence[Stage]) -> list[Claim]:
    """What every device holds: its stage, or only its idle worker."""
    taken = {(stage.node, stage.device): stage.memory_bytes for stage in stages}
    return [
        Claim(
            node=each.node,
            device=each.device,
            pool=each.pool,
            memory_bytes=taken.get((each.node, each.device), each.baseline_bytes),
            limit_bytes=each.memory_limit_bytes,
            idle=(each.node, each.device) not in taken,
        )
        for each in plan.inputs.devices
    ]


def _predicted(asked: Asked, plan: Plan, wish: Wish) -> Plan:
    """The plan with what it is predicted to do by a schedule."""
    placement = placed(asked, plan)
    setting = Setting(
        objective=plan.objective,
        num_microbatches=plan.microbatches,
        recompute=plan.recompute,
    )
    case = pose(asked, setting, codecs_of(asked, plan, placement))
    outcome, _ = play_by(asked, case, placement, wish)
    stages = tuple(
        replace(stage, predicted_busy=busy)
        for stage, busy in zip(plan.stages, outcome.simulation.busy_share, strict=True)
    )
    return replace(plan, stages=stages, predicted=predict(asked, outcome))
