from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.parking import Parking
from edgepipe.agent.session import Session
from edgepipe.agent.weights import WeightStore
from edgepipe.wire.v1 import stage_pb2


async def test_what_ends_a_stage_is_told_and_counted(tmp_path: Path) -> None:
    async def commands() -> AsyncIterator[stage_pb2.Command]:
        yield stage_pb2.Command(admit=stage_pb2.Admit())

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
        kinds = []
        for _ in range(2):
            session = Session(device=device, fence=Fence(), parking=Parking(unused))
            await session.run(commands())
            kinds += [event.failed.kind async for event in session.events()]
    assert kinds == ["WireError", "WireError"]
    assert device.figures.faults == {"WireError": 2}
