"""A plan for inference, as one on whose stages a trial step is taken."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.coordinator.one_step import Trial
from edgepipe.core import work
from edgepipe.core.fit import Claim, short_by_bytes, shortages
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.training_fit import Footprint, held_bytes, inflight_bytes
from edgepipe.core.work import Objective, TrainMode


def trained_plan(plan: Plan, shape: ModelShape, trial: Trial) -> Plan:
    """A plan's stages with a trial on them: microbatches in flight, and memory."""
    num_stages, count = len(plan.stages), len(trial.microbatches)
    footprint = Footprint(
        model=shape,
        dtype=plan.inputs.dtype,
        batch=work.Batch(mode=TrainMode.FULL, sequences=len(trial.examples)),
        rows=max(trial.rows),
        recompute=False,
    )
    held, flying = held_bytes(footprint), inflight_bytes(footprint)
    stages = tuple(
        _trained(
            stage,
            held=int(held[stage.first, stage.end]),
            flying=int(flying[stage.first, stage.end]),
            inflight=min(count, num_stages - at),
        )
        for at, stage in enumerate(plan.stages)
    )
    pools = {(each.node, each.device): each.pool for each in plan.inputs.devices}
    claims = [
        _claim(stage, pools.get((stage.node, stage.device), stage.device)) for stage in stages
    ]
    missing = shortages(claims)
    return replace(
        plan,
        objective=Objective.TRAIN,
        stages=stages,
        microbatches=count,
        recompute=False,
        feasible=not missing,
        shortages=missing,
        short_by_bytes=short_by_bytes(claims),
    )


def _trained(stage: Stage, *, held: int, flying: int, inflight: int) -> Stage:
    return replace(
        stage,
        memory_bytes=stage.baseline_bytes + held + inflight * flying,
        inflight=inflight,
        inflight_bytes=inflight * flying,
        kv_bytes=0,
        workspace_bytes=held - min(held, stage.weight_bytes),
    )


def _claim(stage: Stage, pool: str) -> Claim:
    return Claim(
        node=stage.node,
        device=stage.device,
        pool=pool,
        memory_bytes=stage.memory_bytes,
        limit_bytes=stage.memory_limit_bytes,
    )
