"""A pipeline that trains nothing: emulated stages, for measuring schedules and links."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace

import numpy as np

from edgepipe.coordinator.deployment import Deployment, TrainingSetup
from edgepipe.coordinator.emulated import Emulation, emulated_deployment
from edgepipe.coordinator.orders import Batch, BoundaryCodecs, Orders
from edgepipe.core.dataset import Example
from edgepipe.core.frame import Codec, DType
from edgepipe.core.schedule import Schedule
from edgepipe.core.schedule_credits import count_credits
from edgepipe.core.training import AdamW, Adapters, Decision, Purpose, StageReady, Training, Update
from edgepipe.core.work import TrainMode

HIDDEN_SIZE = 1024
ROW_BYTES = HIDDEN_SIZE * 4
WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainEmulation:
    """Stages of these seconds per microbatch, and rows of that many bytes between them."""

    emulation: Emulation
    schedule: Schedule
    rows: int
    codecs: BoundaryCodecs

    @property
    def ideal_step_s(self) -> float:
        """Σ(f+b) + (M-1) · max(f+b)."""
        emulation = self.emulation
        both = [f + b for f, b in zip(emulation.stage_s, emulation.backward_s, strict=True)]
        return sum(both) + (self.schedule.num_microbatches - 1) * max(both)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """Of the measured steps: the median seconds, idle share, payload bytes, and in-flight depth."""

    step_s: float
    steps_s: tuple[float, ...]
    bubble: float
    bytes_per_step: int
    inflight: tuple[int, ...]


def training_deployment(asked: TrainEmulation) -> Deployment:
    """What it puts on its devices."""
    rows = asked.rows
    base = emulated_deployment(
        asked.emulation,
        num_slots=1,
        max_positions=rows,
        prefill_chunk=1,
        codec=Codec.NONE,
    )
    stages = tuple(
        replace(
            place,
            options={
                "forward_s": forward_s,
                "backward_s": backward_s,
                "update_s": 0.0,
                "hidden_size": HIDDEN_SIZE,
            },
        )
        for place, forward_s, backward_s in zip(
            base.stages, asked.emulation.stage_s, asked.emulation.backward_s, strict=True
        )
    )
    setup = TrainingSetup(
        training=Training(
            mode=TrainMode.LORA,
            seed=0,
            recompute=False,
            optimizer=AdamW(),
            adapters=Adapters(rank=1, alpha=1.0, dropout=0.0, target_modules=()),
            dtype=DType.FLOAT32,
        ),
        max_rows=rows,
        max_order_rows=rows * asked.schedule.num_microbatches,
        credits=count_credits(asked.schedule),
        exchange=False,
    )
    return replace(base, stages=stages, hidden_size=HIDDEN_SIZE, setup=setup)


async def measure_steps(orders: Orders, asked: TrainEmulation, *, num_steps: int) -> StepFigures:
    """Run steps one after another, the next one's tokens sent ahead; warm-up ones do not count."""
    batch = _batch(asked)
    walls: list[float] = []
    reports: list[tuple[StageReady, ...]] = []
    numbers = [orders.give(batch)]
    ended_s = orders.given_s[numbers[0]]
    total = WARM_UP_STEPS + num_steps
    for step in range(total):
        if step + 1 < total:
            numbers.append(orders.give(batch))
        number = numbers[step]
        reports.append(await orders.ready(number))
        orders.decide(Decision(order=number, update=Update(learning_rate=0.0, scale=1.0)))
        await orders.applied(number)
        now = time.perf_counter()
        walls.append(now - max(ended_s, orders.given_s[number]))
        ended_s = now
    measured, told = walls[WARM_UP_STEPS:], reports[WARM_UP_STEPS:]
    step_s = statistics.median(measured)
    busy = statistics.median(sum(stage.busy_s for stage in stages) for stages in told)
    last = told[-1]
    return StepFigures(
        step_s=step_s,
        steps_s=tuple(measured),
        bubble=1 - busy / (step_s * len(last)),
        bytes_per_step=sum(stage.sent_bytes + stage.returned_bytes for stage in last),
        inflight=tuple(stage.inflight for stage in last),
    )


def _batch(asked: TrainEmulation) -> Batch:
    ids = np.zeros(asked.rows, np.int32)
    example = Example(token_ids=ids, targets=ids)
    return Batch(
        step=1,
        purpose=Purpose.TRAIN,
        microbatches=((example,),) * asked.schedule.num_microbatches,
        schedule=asked.schedule,
        loss_weight=1.0,
        codecs=asked.codecs,
    )
