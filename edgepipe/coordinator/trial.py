"""One step of training on a pipeline, to be compared: its loss, and its gradients read back.

AdamW without a memory of earlier gradients (beta1 = 0) keeps the gradient itself as its first
moment, which a stage exports; at a learning rate of 0 no weight changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from edgepipe.coordinator.deployment import Deployment, TrainingSetup
from edgepipe.coordinator.launch import Interface, Running, Tailor, Where, open_model
from edgepipe.coordinator.one_step import OneStep, Trial
from edgepipe.coordinator.orders import Batch, BoundaryCodecs, Orders
from edgepipe.coordinator.planned import Planned
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.trial_plan import trained_plan
from edgepipe.core.compression import gradient_codec
from edgepipe.core.frame import DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.rescheduling import schedule_of
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.schedule_credits import count_credits
from edgepipe.core.training import AdamW, Decision, Purpose, Training, Update
from edgepipe.core.work import TrainMode
from edgepipe.engine.state_file import tensors_of

HALF_LOSS_SCALE = 1024.0
"""Gradients of one step are far from float16's limits with that."""
_MOMENT = "#exp_avg"
_OPTIMIZER = AdamW(betas=(0.0, 0.999))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taking:
    """A trial with a model whose every weight is trained, and nothing is dropped at random."""

    prepared: Prepared
    trial: Trial

    @property
    def tailor(self) -> Tailor:
        return Tailor(plan=self._plan, deployment=self._deployment)

    def _plan(self, planned: Planned) -> Plan:
        """The same stages, with what training takes of their memory."""
        return trained_plan(planned.plan, self.prepared.shape, self.trial)

    def _deployment(self, deployment: Deployment, plan: Plan) -> Deployment:
        rows = self.trial.rows
        setup = TrainingSetup(
            training=Training(
                mode=TrainMode.FULL,
                seed=0,
                recompute=False,
                optimizer=_OPTIMIZER,
                adapters=None,
                dtype=plan.inputs.dtype,
            ),
            max_rows=max(rows),
            max_order_rows=sum(rows),
            credits=count_credits(schedule_of(plan, Wish())),
            exchange=self.prepared.shape.tied,
        )
        config = without_dropout(self.prepared.model.config)
        return replace(deployment, setup=setup, config=config)


async def take_step(
    prepared: Prepared, trial: Trial, where: Where, how: How, interface: Interface
) -> OneStep:
    """Take a trial's step on the stages of a plan, which `how` pins.

    Raises as `open_model`; DoesNotFit where training takes more memory than there is.
    """
    taking = _Taking(prepared=prepared, trial=trial)
    longest = max(map(len, trial.examples))
    async with open_model(
        prepared, where, how, max_positions=longest, interface=interface, tailor=taking.tailor
    ) as running:
        orders = Orders(pipeline=running.pipeline)
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(orders.listen())
            step = await _step(orders, _batch(running, trial), trial)
            listening.cancel()
            return step


def _batch(running: Running, trial: Trial) -> Batch:
    plan = running.plan
    return Batch(
        step=1,
        purpose=Purpose.TRAIN,
        microbatches=trial.microbatches,
        schedule=schedule_of(plan, Wish()),
        loss_weight=_loss_scale(plan) / trial.num_targets,
        codecs=_codecs(running.pipeline.deployment),
    )


def _loss_scale(plan: Plan) -> float:
    return HALF_LOSS_SCALE if plan.inputs.dtype is DType.FLOAT16 else 1.0


def _codecs(deployment: Deployment) -> BoundaryCodecs:
    """Gradients go back as activations came, but never as int4."""
    forward = tuple(above.codec for above, _below in pairwise(deployment.stages))
    return BoundaryCodecs(forward=forward, backward=tuple(map(gradient_codec, forward)))


async def _step(orders: Orders, batch: Batch, trial: Trial) -> OneStep:
    number = orders.give(batch)
    reports = await orders.ready(number)
    scale = 1 / (batch.loss_weight * trial.num_targets)
    update = Update(learning_rate=0.0, scale=scale)
    orders.decide(Decision(order=number, update=update, export=True))
    await orders.applied(number)
    gradients: dict[str, torch.Tensor] = {}
    for stage in range(orders.num_stages):
        gradients.update(await _gradients(orders, stage, number))
    return OneStep(loss=sum(reports[-1].loss_sums) / trial.num_targets, gradients=gradients)


async def _gradients(orders: Orders, stage: int, number: int) -> dict[str, torch.Tensor]:
    """Of what a stage trains, by names in the whole model."""
    found: dict[str, torch.Tensor] = {}
    data = bytearray()
    async with aclosing(orders.export(stage, number)) as chunks:
        async for chunk in chunks:
            data += chunk.data
            if len(data) == chunk.unit_bytes:
                found.update(await asyncio.to_thread(_moments, data, chunk.unit))
                data = bytearray()
    return found


def _moments(data: bytearray, unit: str) -> dict[str, torch.Tensor]:
    """Copies, or each would hold the whole unit."""
    return {
        name.removesuffix(_MOMENT): tensor.clone()
        for name, tensor in tensors_of(data, unit).items()
        if name.endswith(_MOMENT)
    }


def without_dropout(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config, with every rate at which it drops values, or adds noise, at 0."""
    return {name: _without_dropout(name, value) for name, value in config.items()}


def _without_dropout(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_dropout(value)
    is_rate = isinstance(value, float) and ("drop" in name or "jitter" in name)
    return 0.0 if is_rate else value
