"""Orders to a pipeline that trains: given to every stage, and gathered from every stage.

give(batch) ─▶ each stage runs it ─▶ ready() ─ decide(decision) ─▶ applied()
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, Self, TypeVar

import grpc
import numpy as np

from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.core.codec_guard import stepped_up
from edgepipe.core.dataset import Example
from edgepipe.core.frame import Codec
from edgepipe.core.order import Order
from edgepipe.core.posing import Case
from edgepipe.core.problem import Placement
from edgepipe.core.schedule import Kind, Schedule
from edgepipe.core.training import Decision, Microbatch, Purpose, StageApplied, StageReady
from edgepipe.errors import EdgepipeError, StageError
from edgepipe.transport import status
from edgepipe.wire.v1 import stage_pb2, stage_pb2_grpc

ORDER_DEADLINE_S = 3600.0
"""A step of the largest model on the slowest machines; a lost stage is told much sooner."""

R = TypeVar("R", StageReady, StageApplied)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundaryCodecs:
    """Of each boundary, in pipeline order: what activations and gradients travel as."""

    forward: tuple[Codec, ...]
    backward: tuple[Codec, ...]

    def uncompressed(self) -> BoundaryCodecs:
        """The same boundaries without any."""
        none = (Codec.NONE,) * len(self.forward)
        return BoundaryCodecs(forward=none, backward=none)

    def stepped_up(self) -> BoundaryCodecs:
        """Each one the next less lossy one."""
        return BoundaryCodecs(
            forward=tuple(map(stepped_up, self.forward)),
            backward=tuple(map(stepped_up, self.backward)),
        )

    @classmethod
    def of(cls, case: Case, placement: Placement) -> Self:
        """Those of a placement's links."""
        assert case.backward is not None
        down = list(pairwise(stage.device for stage in placement))
        return cls(
            forward=tuple(case.codecs[above][below] for above, below in down),
            backward=tuple(case.backward.codecs[below][above] for above, below in down),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The microbatches of one order, and how they are run; an evaluation has forwards alone."""

    step: int
    purpose: Purpose
    microbatches: tuple[tuple[Example, ...], ...]
    schedule: Schedule
    loss_weight: float
    codecs: BoundaryCodecs


@dataclass(slots=True)
class _Gathering(Generic[R]):
    """One report of every stage, per order."""

    num_stages: int
    found: dict[int, dict[int, R]] = field(default_factory=lambda: defaultdict(dict))
    waiting: dict[int, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    def take(self, stage: int, report: R) -> None:
        self.found[report.order][stage] = report
        if len(self.found[report.order]) == self.num_stages:
            self.waiting[report.order].set()

    async def all_of(self, order: int) -> tuple[R, ...]:
        try:
            async with asyncio.timeout(ORDER_DEADLINE_S):
                await self.waiting[order].wait()
        except TimeoutError:
            raise StageError(
                f"a step took over {ORDER_DEADLINE_S:.0f} s; see the agents' logs"
            ) from None
        del self.waiting[order]
        reports = self.found.pop(order)
        return tuple(reports[stage] for stage in range(self.num_stages))


@dataclass(slots=True, kw_only=True)
class Orders:
    """What a pipeline that trains is told, and what it answers. Run `listen` beside its use.

    `given_s` are when each order's first tokens went out, by time.perf_counter.
    """

    pipeline: Pipeline
    given_s: dict[int, float] = field(default_factory=dict)
    _last: int = 0
    _ready: _Gathering[StageReady] = field(init=False)
    _applied: _Gathering[StageApplied] = field(init=False)

    def __post_init__(self) -> None:
        self._ready = _Gathering(self.num_stages)
        self._applied = _Gathering(self.num_stages)

    @property
    def num_stages(self) -> int:
        """P."""
        return len(self.pipeline.clients)

    async def listen(self) -> None:
        """Gather reports until cancelled."""
        while True:
            told = await self.pipeline.reports.get()
            match told.report:
                case StageReady():
                    self._ready.take(told.stage, told.report)
                case _:
                    self._applied.take(told.stage, told.report)
                    self.pipeline.num_tokens += 1

    def give(self, batch: Batch) -> int:
        """Have every stage run a batch; the number of its order."""
        self._last = number = self._last + 1
        for stage, client in enumerate(self.pipeline.clients):
            client.order(_order(batch, number, stage, self.num_stages))
        self.given_s[number] = time.perf_counter()
        first, last = self.pipeline.clients[0], self.pipeline.clients[-1]
        for index, examples in enumerate(batch.microbatches):
            tokens = np.concatenate([each.token_ids for each in examples])
            targets = np.concatenate([each.targets for each in examples])
            if first is last:
                first.tokens(number, index, tokens, targets)
            else:
                first.tokens(number, index, tokens, None)
                last.tokens(number, index, None, targets)
        return number

    async def ready(self, number: int) -> tuple[StageReady, ...]:
        """What an order came to, of every stage in order."""
        return await self._ready.all_of(number)

    def decide(self, decision: Decision) -> None:
        """Tell every stage what becomes of an order."""
        for client in self.pipeline.clients:
            client.decide(decision)

    async def applied(self, number: int) -> tuple[StageApplied, ...]:
        """Return once every stage has carried the decision out."""
        return await self._applied.all_of(number)

    # ------------------------------------------------------------------------------------ state

    async def export(self, stage: int, number: int) -> AsyncGenerator[stage_pb2.StateChunk, None]:
        """What a stage has trained, since order `number`'s decision asked to keep it."""
        client = self.pipeline.clients[stage]
        stub = stage_pb2_grpc.StageStub(client.channel)
        request = stage_pb2.ExportStateRequest(fence=self.pipeline.fence(stage), order=number)
        try:
            async for chunk in stub.ExportState(request, timeout=ORDER_DEADLINE_S):
                yield chunk
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            raise await self._explained(error, client.who) from error

    async def restore(self, stage: int, chunks: AsyncIterator[stage_pb2.StateChunk]) -> None:
        """Have a stage go on from units that were exported, before its first order."""
        client, fence = self.pipeline.clients[stage], self.pipeline.fence(stage)

        async def fenced() -> AsyncIterator[stage_pb2.StateChunk]:
            async for chunk in chunks:
                chunk.fence = fence
                yield chunk

        stub = stage_pb2_grpc.StageStub(client.channel)
        try:
            await stub.ImportState(fenced(), timeout=ORDER_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            raise await self._explained(error, client.who) from error

    async def _explained(self, error: grpc.aio.AioRpcError, who: str) -> EdgepipeError:
        return await self.pipeline.explained(status.from_rpc_error(error, who), who)


def _order(batch: Batch, number: int, stage: int, num_stages: int) -> Order:
    """A batch as one stage is told of it."""
    is_last = stage == num_stages - 1
    microbatches = (
        Microbatch(step=batch.step, index=index, lengths=tuple(map(len, examples)))
        for index, examples in enumerate(batch.microbatches)
    )
    actions = batch.schedule.stages[stage]
    if batch.purpose is Purpose.EVALUATE:
        forwards = (action for action in actions if action.kind is Kind.FORWARD)
        actions = tuple(sorted(forwards, key=lambda action: action.microbatch))
    return Order(
        number=number,
        step=batch.step,
        purpose=batch.purpose,
        actions=actions,
        microbatches=tuple(microbatches),
        loss_weight=batch.loss_weight,
        codec_forward=Codec.NONE if is_last else batch.codecs.forward[stage],
        codec_backward=Codec.NONE if stage == 0 else batch.codecs.backward[stage - 1],
    )
