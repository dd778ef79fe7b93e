"""A stage that trains: orders and tokens come in, what they came to goes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Self

from edgepipe.agent import deploy_training
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.figures import Neighbours
from edgepipe.agent.role import Depths, Tell
from edgepipe.agent.train_passes import Ids
from edgepipe.agent.train_runner import Report, TrainRunner
from edgepipe.core.stage_training import StageTraining
from edgepipe.core.training import StageReady
from edgepipe.engine.state_file import chunks_of, file_bytes, tensors_of
from edgepipe.engine.training import TrainingEngine
from edgepipe.errors import StageError, WireError
from edgepipe.transport import convert
from edgepipe.transport.link import Link
from edgepipe.wire.v1 import stage_pb2

EXPORT_DEADLINE_S = 600.0


@dataclass(slots=True, kw_only=True)
class Training:
    """See `Role`."""

    runner: TrainRunner
    compute: ComputeThread
    coding: ComputeThread
    tell: Tell
    max_unit_bytes: int

    @classmethod
    def of(
        cls,
        load: stage_pb2.Load,
        device: WorkerDevice,
        engine: TrainingEngine,
        *,
        max_unit_bytes: int,
        upstream: Link,
        downstream: Link,
        neighbours: Neighbours,
        tell: Tell,
    ) -> Self:
        """The role of a stage that is loaded and connected."""
        seat = deploy_training.seat(load)
        runner = TrainRunner(
            engine=engine,
            device=device.torch_device,
            slowdown=device.slowdown,
            compute=device.compute,
            coding=device.coding,
            state=StageTraining(seat=seat),
            intake=deploy_training.intake(load),
            vocab_size=load.vocab_size,
            upstream=None if seat.is_first else upstream,
            downstream=None if seat.is_last else downstream,
            exchange=_ring(load, upstream, downstream),
            emit=lambda report: tell(_event(report)),
            duty=device.duty,
            figures=device.figures,
            neighbours=neighbours,
        )
        return cls(
            runner=runner,
            compute=device.compute,
            coding=device.coding,
            tell=tell,
            max_unit_bytes=max_unit_bytes,
        )

    async def run(self) -> None:
        """See `Role.run`."""
        await self.runner.run()

    def obey(self, command: stage_pb2.Command) -> None:
        """See `Role.obey`."""
        match command.WhichOneof("command"):
            case "order":
                self.runner.give(convert.order_from_wire(command.order))
            case "tokens":
                tokens = command.tokens
                ids = Ids(
                    tokens=convert.ids_from_wire(tokens.token_ids),
                    targets=convert.ids_from_wire(tokens.targets),
                )
                self.runner.give_ids(tokens.order, tokens.microbatch, ids)
            case "decide":
                self.runner.decide(convert.decision_from_wire(command.decide))
            case _:
                raise WireError("a command arrived that a stage that trains does not know")

    def depths(self) -> Depths:
        """See `Role.depths`."""
        return self.runner.depths()

    # ------------------------------------------------------------------------------------ state

    async def export(self, order: int) -> AsyncGenerator[stage_pb2.StateChunk, None]:
        """What was trained, unit by unit, once the order's decision has asked to keep it as it is.

        Order 0 is before all others, and wants no decision.
        """
        if order == 0:
            self.runner.keep()
        try:
            async with asyncio.timeout(EXPORT_DEADLINE_S):
                await self.runner.kept()
        except TimeoutError:
            raise StageError("no decision asked for what was trained") from None
        try:
            engine = self.runner.engine
            for unit in engine.units():
                tensors = await self.compute.run(partial(engine.export_state, unit))
                pieces = chunks_of(tensors)
                size = file_bytes(tensors)
                while data := await self.coding.run(partial(_next, pieces)):
                    yield stage_pb2.StateChunk(unit=unit, unit_bytes=size, data=data)
        finally:
            self.runner.let_go()

    async def take_state(self, chunks: AsyncIterator[stage_pb2.StateChunk]) -> None:
        """Go on from what was exported once; of each unit all pieces, one after another.

        Raises WireError for what is no unit of this stage, DamagedWeights for a damaged one.
        """
        engine = self.runner.engine
        units, unit, size = frozenset(engine.units()), "", 0
        data = bytearray()
        async for chunk in chunks:
            if not data:
                unit, size = chunk.unit, chunk.unit_bytes
                if unit not in units or not 0 < size <= self.max_unit_bytes:
                    raise WireError(f"{unit[:40]!r} is no unit of this stage")
            fits = 0 < len(chunk.data) <= size - len(data)
            if (chunk.unit, chunk.unit_bytes) != (unit, size) or not fits:
                raise WireError(f"the pieces of {unit} do not follow one another")
            data += chunk.data
            if len(data) == size:
                tensors = await self.coding.run(partial(tensors_of, data, unit))
                await self.compute.run(partial(engine.import_state, unit, tensors))
                data = bytearray()
        if data:
            raise WireError(f"{unit} is cut off at {len(data)} bytes")


def _next(pieces: Iterator[memoryview]) -> bytes:
    """The next piece, empty after the last."""
    return bytes(next(pieces, b""))


def _ring(load: stage_pb2.Load, upstream: Link, downstream: Link) -> Link | None:
    """The link between the last stage and the first, where there are two."""
    if load.num_stages == 1:
        return None
    if load.stage == 0:
        return upstream
    return downstream if load.stage == load.num_stages - 1 else None


def _event(report: Report) -> stage_pb2.Event:
    if isinstance(report, StageReady):
        return stage_pb2.Event(ready=convert.ready_to_wire(report))
    return stage_pb2.Event(applied=convert.applied_to_wire(report))
