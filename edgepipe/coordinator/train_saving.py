"""Checkpoints of a run: what the stages have trained, to the disk and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgepipe.coordinator.checkpoint_writer import CheckpointWriter
from edgepipe.coordinator.checkpoints import Checkpoint, prune
from edgepipe.coordinator.manifest import Manifest
from edgepipe.coordinator.orders import Orders
from edgepipe.errors import CheckpointError
from edgepipe.wire.v1 import stage_pb2


@dataclass(slots=True, kw_only=True)
class Saver:
    """Writes one checkpoint at a time, while training goes on. `keep` is 0 for all.

    `after` is done in a thread once one is written.
    """

    orders: Orders
    run: Path
    keep: int
    tasks: asyncio.TaskGroup
    after: Callable[[], None]
    _saving: asyncio.Task[None] | None = None

    async def save(self, facts: Manifest, order: int) -> None:
        """Begin to write what was trained as of an order, once the one before is written.

        The decision of the order must have asked to keep it.
        """
        await self.finish()
        self._saving = self.tasks.create_task(self._save(facts, order))

    async def finish(self) -> None:
        """Return once nothing is being written."""
        if self._saving is not None:
            await self._saving
            self._saving = None

    async def _save(self, facts: Manifest, order: int) -> None:
        units = [unit for stage in range(self.orders.num_stages) for unit in self._units(stage)]
        writer = await asyncio.to_thread(CheckpointWriter, self.run, facts, units)
        try:
            async with asyncio.TaskGroup() as tasks:
                for stage in range(self.orders.num_stages):
                    tasks.create_task(self._write(writer, stage, order))
            await asyncio.to_thread(writer.commit)
        finally:
            await asyncio.to_thread(writer.close)
        await asyncio.to_thread(self.after)
        if self.keep:
            await asyncio.to_thread(partial(prune, self.run, keep=self.keep))

    async def _write(self, writer: CheckpointWriter, stage: int, order: int) -> None:
        written = 0
        async with aclosing(self.orders.export(stage, order)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(writer.append, chunk.unit, chunk.data)
                written += len(chunk.data)
                if written == chunk.unit_bytes:
                    await asyncio.to_thread(writer.finish, chunk.unit)
                    written = 0

    def _units(self, stage: int) -> tuple[str, ...]:
        memory = self.orders.pipeline.clients[stage].memory
        assert memory is not None, "the stage is loaded"
        return memory.units

    async def restore(self, checkpoint: Checkpoint) -> None:
        """Have every stage go on from a checkpoint. Raises CheckpointError where it lacks a unit.

        However the model is cut: a unit goes to the stage that has it now.
        """
        wanted = {unit for stage in range(self.orders.num_stages) for unit in self._units(stage)}
        for unit in sorted(wanted.symmetric_difference(checkpoint.units)):
            raise CheckpointError(
                f"{checkpoint.folder} does not go with this run: {unit} is trained in one of them "
                "alone"
            )
        async with asyncio.TaskGroup() as tasks:
            for stage in range(self.orders.num_stages):
                chunks = _state(checkpoint, self._units(stage))
                tasks.create_task(self.orders.restore(stage, chunks))


async def _state(
    checkpoint: Checkpoint, units: tuple[str, ...]
) -> AsyncIterator[stage_pb2.StateChunk]:
    for unit in units:
        size, pieces = checkpoint.size_bytes(unit), checkpoint.chunks(unit)
        while data := await asyncio.to_thread(_next, pieces):
            yield stage_pb2.StateChunk(unit=unit, unit_bytes=size, data=data)


def _next(pieces: Iterator[bytes]) -> bytes:
    """The next piece, empty after the last."""
    return next(pieces, b"")
