"""From a plan and a config to what stages are told of a training run."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.coordinator.deployment import Deployment, TrainingSetup
from edgepipe.coordinator.orders import BoundaryCodecs
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.core.frame import Codec
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.schedule import Schedule
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


def codecs_of(plan: Plan) -> BoundaryCodecs:
    """What a plan's boundaries send down and up."""
    return BoundaryCodecs(
        forward=tuple(stage.codec_forward for stage in plan.stages[:-1]),
        backward=tuple(stage.codec_backward or Codec.NONE for stage in plan.stages[1:]),
    )
