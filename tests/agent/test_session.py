from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.parking import Parking
from edgepipe.agent.session import Session
from edgepipe.agent.weights import WeightStore
from edgepipe.errors import StageLost
from edgepipe.wire.v1 import stage_pb2

DEADLINE_S = 20
Make = Callable[[], Session]


@dataclass
class Deserted:
    """Engine, boundaries and role of a stage whose neighbours hang up at once."""

    left: asyncio.Event = field(default_factory=asyncio.Event)

    def role(self, **_: Any) -> Deserted:
        return self

    async def run(self) -> None:
        self.left.set()
        raise StageLost("a neighbour of this stage hung up")

    async def dial(self, *_: Any) -> tuple[None, stage_pb2.Connected]:
        return None, stage_pb2.Connected()

    async def upstream(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def release(self) -> None:
        pass


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Sessions of one worker."""
    with ComputeThread("unused") as unused:
        device = WorkerDevice(
            torch_device=torch.device("cpu"),
            slowdown=1.0,
            baseline_bytes=0,
            store=WeightStore(tmp_path),
            compute=unused,
            coding=unused,
            credentials=None,
        )
        yield lambda: Session(device=device, fence=Fence(), parking=Parking(unused))


async def told(session: Session, commands: AsyncIterator[stage_pb2.Command]) -> list[str]:
    """The events, by kind, and what failed."""
    async with asyncio.timeout(DEADLINE_S):
        await session.run(commands)
        events = [event async for event in session.events()]
    return [event.failed.kind or str(event.WhichOneof("event")) for event in events]


async def test_what_ends_a_stage_is_told_and_counted(make: Make) -> None:
    async def commands() -> AsyncIterator[stage_pb2.Command]:
        yield stage_pb2.Command(admit=stage_pb2.Admit())

    for _ in range(2):
        assert await told(session := make(), commands()) == ["WireError"]
    assert session.device.figures.faults == {"WireError": 2}


async def test_a_neighbour_that_hears_of_the_end_first_is_no_fault(make: Make) -> None:
    async def commands() -> AsyncIterator[stage_pb2.Command]:
        yield stage_pb2.Command(connect=stage_pb2.Connect())
        await deserted.left.wait()

    deserted, session = Deserted(), make()
    session.boundaries = session._engine = deserted  # type: ignore[assignment]
    assert await told(session, commands()) == ["connected"]
    assert not session.device.figures.faults


async def test_a_neighbour_that_is_lost_is_a_fault(make: Make) -> None:
    async def commands() -> AsyncIterator[stage_pb2.Command]:
        yield stage_pb2.Command(connect=stage_pb2.Connect())
        await asyncio.Event().wait()

    session = make()
    session.boundaries = session._engine = Deserted()  # type: ignore[assignment]
    assert await told(session, commands()) == ["connected", "StageLost"]
    assert session.device.figures.faults == {"StageLost": 1}
