"""A stage's engine, loaded from a `Load` message: parked when its job is over, or gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from edgepipe.agent import deploy, deploy_training
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.engines import make_engine
from edgepipe.agent.figures import Neighbours
from edgepipe.agent.generating import Generating
from edgepipe.agent.parking import Parking, free
from edgepipe.agent.resident import (
    TRAINING_MAP_BYTES,
    USUAL_MAP_BYTES,
    empty_cache,
    map_from,
    reset_peak,
)
from edgepipe.agent.role import Role, Tell
from edgepipe.agent.training import Training
from edgepipe.engine.base import Engine, Loaded, Progress
from edgepipe.engine.training import TrainingEngine
from edgepipe.transport import convert
from edgepipe.transport.link import Link
from edgepipe.wire.v1 import stage_pb2

STATE_PER_WEIGHT = 8
"""A weight in two bytes has a master and two moments in four each, and then some."""
STATE_SLACK_BYTES = 64 << 20


class StageEngine(Protocol):
    """What a session holds of an engine."""

    @property
    def loaded(self) -> Loaded:
        """What it takes of the device."""
        ...

    @property
    def units(self) -> tuple[str, ...]:
        """What is kept of it, where it trains."""
        ...

    def role(self, *, upstream: Link, downstream: Link, neighbours: Neighbours, tell: Tell) -> Role:
        """Put it to work between its boundaries."""
        ...

    async def release(self) -> None:
        """The job is over."""
        ...


async def load_stage(
    load: stage_pb2.Load, device: WorkerDevice, parking: Parking, progress: Progress
) -> StageEngine:
    """Load what the message says, checked before. Raises StageError, ModelError, DamagedWeights."""
    spec = deploy.stage_spec(load, device.store)
    if load.HasField("training"):
        await parking.clear()
        reset_peak()
        map_from(TRAINING_MAP_BYTES)
        trainer = deploy_training.make_trainer(load.engine, device.torch_device)
        training = convert.training_from_wire(load.training)
        try:
            held = await device.compute.run(partial(trainer.load, spec, training, progress))
        except BaseException:
            await asyncio.shield(device.compute.run(partial(free, trainer)))
            raise
        return _Trainer(load=load, device=device, engine=trainer, loaded=held)
    engine, held = await parking.load(
        deploy.weights_key(load),
        lambda: make_engine(load.engine, device.torch_device, device.store.home),
        spec,
        progress,
    )
    return _Generator(load=load, device=device, parking=parking, engine=engine, loaded=held)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Generator:
    """Its weights outlive the job."""

    load: stage_pb2.Load
    device: WorkerDevice
    parking: Parking
    engine: Engine
    loaded: Loaded
    units: tuple[str, ...] = ()

    def role(self, *, upstream: Link, downstream: Link, neighbours: Neighbours, tell: Tell) -> Role:
        return Generating.of(
            self.load,
            self.device,
            self.engine,
            upstream=upstream,
            downstream=downstream,
            neighbours=neighbours,
            tell=tell,
        )

    async def release(self) -> None:
        self.parking.park()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trainer:
    """Nothing that is trained outlives its session."""

    load: stage_pb2.Load
    device: WorkerDevice
    engine: TrainingEngine
    loaded: Loaded

    @property
    def units(self) -> tuple[str, ...]:
        return self.engine.units()

    def role(self, *, upstream: Link, downstream: Link, neighbours: Neighbours, tell: Tell) -> Role:
        return Training.of(
            self.load,
            self.device,
            self.engine,
            max_unit_bytes=STATE_PER_WEIGHT * self.loaded.weight_bytes + STATE_SLACK_BYTES,
            upstream=upstream,
            downstream=downstream,
            neighbours=neighbours,
            tell=tell,
        )

    async def release(self) -> None:
        await asyncio.shield(self.device.compute.run(partial(free, self.engine)))
        map_from(USUAL_MAP_BYTES)
        empty_cache(self.device.torch_device)
