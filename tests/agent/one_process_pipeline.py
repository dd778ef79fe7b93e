"""A pipeline of real training runners, links and threads in one process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.train_passes import Ids
from edgepipe.agent.train_runner import Report, TrainRunner
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.core.order import Order, Seat
from edgepipe.core.schedule import Kind, Schedule
from edgepipe.core.schedule_credits import count_credits
from edgepipe.core.stage_training import StageTraining
from edgepipe.core.train_intake import TrainIntake
from edgepipe.core.training import (
    AdamW,
    Decision,
    Microbatch,
    Purpose,
    StageApplied,
    StageReady,
    Training,
    Update,
)
from edgepipe.core.work import TrainMode
from edgepipe.engine.base import StageSpec
from edgepipe.engine.emulated_training import EmulatedTrainer
from edgepipe.engine.training import Backwarded, Forwarded, Targets, TrainingEngine
from edgepipe.transport import inproc
from edgepipe.transport.link import Link

DEADLINE_S = 30
JOB, EPOCH = JobId("job"), 1
HIDDEN, VOCABULARY = 8, 32
LENGTHS = (3, 2)
ROWS = sum(LENGTHS)


@dataclass
class Pipeline:
    """Runners in pipeline order, and what each has reported of each order."""

    runners: list[TrainRunner] = field(default_factory=list)
    reports: dict[tuple[type[Report], int], dict[int, Report]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    told: asyncio.Condition = field(default_factory=asyncio.Condition)

    def report(self, stage: int, report: Report) -> None:
        self.reports[type(report), report.order][stage] = report
        asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        async with self.told:
            self.told.notify_all()

    async def ready(self, number: int) -> list[StageReady]:
        found = await self._all(StageReady, number)
        return [each for each in found if isinstance(each, StageReady)]

    async def applied(self, number: int) -> list[StageApplied]:
        found = await self._all(StageApplied, number)
        return [each for each in found if isinstance(each, StageApplied)]

    async def _all(self, kind: type[Report], number: int) -> list[Report]:
        wanted = self.reports[kind, number]
        async with asyncio.timeout(DEADLINE_S), self.told:
            await self.told.wait_for(lambda: len(wanted) == len(self.runners))
        return [wanted[stage] for stage in range(len(self.runners))]

    def give(
        self,
        number: int,
        schedule: Schedule,
        *,
        purpose: Purpose = Purpose.TRAIN,
        codec: Codec = Codec.NONE,
        stages: Sequence[int] | None = None,
    ) -> None:
        """An order, with all tokens and targets, to all stages or to some."""
        for stage in stages if stages is not None else range(len(self.runners)):
            runner = self.runners[stage]
            runner.give(order(number, schedule, stage, purpose=purpose, codec=codec))
            is_first, is_last = stage == 0, runner.state.seat.is_last
            for microbatch in range(schedule.num_microbatches if is_first or is_last else 0):
                ids = ids_of(number, microbatch)
                given = Ids(tokens=ids if is_first else None, targets=ids if is_last else None)
                runner.give_ids(number, microbatch, given)

    def decide(self, number: int, *, export: bool = False) -> None:
        for runner in self.runners:
            update = Update(learning_rate=0.1, scale=1.0)
            runner.decide(Decision(order=number, update=update, export=export))


def ids_of(number: int, microbatch: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """A microbatch's tokens: others in each."""
    return (np.arange(ROWS, dtype=np.int32) + 7 * number + microbatch) % VOCABULARY


def order(number: int, schedule: Schedule, stage: int, *, purpose: Purpose, codec: Codec) -> Order:
    actions = schedule.stages[stage]
    if purpose is Purpose.EVALUATE:
        actions = tuple(action for action in actions if action.kind is Kind.FORWARD)
    return Order(
        number=number,
        step=number,
        purpose=purpose,
        actions=actions,
        microbatches=tuple(
            Microbatch(step=number, index=index, lengths=LENGTHS)
            for index in range(schedule.num_microbatches)
        ),
        loss_weight=1.0,
        codec_forward=codec,
        codec_backward=codec,
    )


@asynccontextmanager
async def running_pipeline(
    engines: Sequence[TrainingEngine], schedule: Schedule, *, exchanges: bool = False
) -> AsyncIterator[Pipeline]:
    """Loaded engines at work. Leaving it hangs up; what a runner raised is raised."""
    pipeline = Pipeline()
    last = len(engines) - 1
    async with AsyncExitStack() as stack:
        credits_of = (max(each.forward, each.backward) for each in count_credits(schedule))
        boundaries = [inproc.pair(count, eager=True) for count in credits_of]
        ring = inproc.pair(8) if last else None
        for pair in [*boundaries, *([ring] if ring else [])]:
            for end in pair:
                stack.push_async_callback(end.close)
        for stage, engine in enumerate(engines):
            compute, coding = (stack.enter_context(ComputeThread(f"test {i}")) for i in (1, 2))
            exchange: Link | None = None
            if ring is not None and stage in {0, last}:
                exchange = ring[0] if stage == last else ring[1]
            seat = Seat(stage=stage, num_stages=len(engines), exchanges=exchanges)
            pipeline.runners.append(
                TrainRunner(
                    engine=engine,
                    device=torch.device("cpu"),
                    slowdown=1.0,
                    compute=compute,
                    coding=coding,
                    state=StageTraining(seat=seat),
                    intake=TrainIntake(
                        job=JOB,
                        epoch=EPOCH,
                        hidden_size=HIDDEN,
                        max_rows=2 * max(LENGTHS),
                        max_order_rows=2 * max(LENGTHS) * schedule.num_microbatches,
                    ),
                    vocab_size=VOCABULARY,
                    upstream=boundaries[stage - 1][1] if stage else None,
                    downstream=boundaries[stage][0] if stage < last else None,
                    exchange=exchange,
                    emit=lambda report, stage=stage: pipeline.report(stage, report),
                )
            )
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(runner.run()) for runner in pipeline.runners]
            yield pipeline
            for task in running:
                task.cancel()


class Recording(EmulatedTrainer):
    """Notes what it is asked to do: F0 B0 apply."""

    def __init__(self, *, embedding: bool, head: bool) -> None:
        super().__init__()
        self.done: list[str] = []
        spec = StageSpec(
            config={},
            first=0,
            end=1,
            embedding=embedding,
            head=head,
            dtype=DType.FLOAT32,
            num_slots=1,
            max_positions=1,
            options={"forward_s": 0, "backward_s": 0, "update_s": 0, "hidden_size": HIDDEN},
        )
        training = Training(
            mode=TrainMode.FULL,
            seed=0,
            recompute=False,
            optimizer=AdamW(),
            adapters=None,
            dtype=DType.FLOAT32,
        )
        self.load(spec, training, lambda _done, _total: None)

    def forward(
        self,
        microbatch: Microbatch,
        inputs: torch.Tensor,
        *,
        purpose: Purpose,
        targets: Targets | None,
    ) -> Forwarded:
        self.done.append(f"F{microbatch.index}")
        found = super().forward(microbatch, inputs, purpose=purpose, targets=targets)
        return found if targets is None else replace(found, loss_sum=float(targets.ids.sum()))

    def backward(self, microbatch: int, gradient: torch.Tensor | None) -> Backwarded:
        self.done.append(f"B{microbatch}")
        return super().backward(microbatch, gradient)

    def apply(self, update: Update) -> None:
        self.done.append("apply")
        super().apply(update)


def recording(num_stages: int) -> list[Recording]:
    return [
        Recording(embedding=stage == 0, head=stage == num_stages - 1) for stage in range(num_stages)
    ]
