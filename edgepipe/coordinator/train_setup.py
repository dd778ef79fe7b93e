"""From a plan and a config to what stages are told of a training run."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.coordinator.deployment import Deployment, TrainingSetup
from edgepipe.coordinator.orders import BoundaryCodecs
from edgepipe.coordinator.planned import Planned
from edgepipe.coordinator.planning import How, asked_of
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.core.compression import gradient_codec
from edgepipe.core.frame import Codec
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.remedy import require_fit
from edgepipe.core.rescheduling import rescheduled
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.schedule_credits import count_credits
from edgepipe.core.training import Adapters, Training
from edgepipe.core.work import Batch, TrainMode


def adapters_of(config: TrainConfig, leaf_names: tuple[str, ...]) -> Adapters | None:
    """The adapters of a config; `leaf_names` are those of all linear modules of the model."""
    if config.lora is None:
        return None
    return Adapters(
        rank=config.lora.rank,
        alpha=config.lora.alpha,
        dropout=config.lora.dropout,
        target_modules=config.lora.target_modules or leaf_names,
    )


def trained(
    deployment: Deployment,
    plan: Plan,
    schedule: Schedule,
    *,
    config: TrainConfig,
    batch: Batch,
    shape: ModelShape,
    adapters: Adapters | None,
) -> Deployment:
    """The deployment of a plan, as one that trains by a schedule."""
    rows = batch.most_rows(plan.microbatches)
    setup = TrainingSetup(
        training=Training(
            mode=config.mode,
            seed=config.seed,
            recompute=plan.recompute,
            optimizer=config.optimizer.adamw,
            adapters=adapters,
            dtype=plan.inputs.dtype,
        ),
        max_rows=rows,
        max_order_rows=rows * plan.microbatches,
        credits=count_credits(schedule),
        exchange=shape.tied and config.mode is TrainMode.FULL,
    )
    return replace(deployment, setup=setup)


def tailored(
    planned: Planned, wish: Wish, how: How, *, shape: ModelShape, max_positions: int
) -> Plan:
    """What was planned, as it is run: by the wished schedule, with the codecs that were named.

    Raises DoesNotFit where it is the schedule that leaves no room, UsageError as `Wish.schedule`.
    """
    plan = _with_codecs(planned.plan, how.codec, how.codec_backward)
    surveyed = planned.surveyed
    asked = None if surveyed is None else asked_of(shape, surveyed.survey, how, max_positions)
    found = rescheduled(plan, wish, asked)
    if plan.feasible:
        require_fit(found, schedule=wish.name)
    return found


def _with_codecs(plan: Plan, forward: Codec | None, backward: Codec | None) -> Plan:
    """Named codecs in place of a plan's own, about which nothing is predicted then."""
    if backward is None and forward is not None:
        backward = gradient_codec(forward)
    stages = tuple(
        replace(
            stage,
            codec_forward=forward or stage.codec_forward,
            codec_backward=backward or stage.codec_backward,
        )
        for stage in plan.stages
    )
    if stages == plan.stages:
        return plan
    return replace(plan, stages=stages, predicted=None)


def codecs_of(plan: Plan) -> BoundaryCodecs:
    """What a plan's boundaries send down and up."""
    return BoundaryCodecs(
        forward=tuple(stage.codec_forward for stage in plan.stages[:-1]),
        backward=tuple(stage.codec_backward or Codec.NONE for stage in plan.stages[1:]),
    )
