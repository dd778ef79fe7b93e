"""The workers of one agent: one per device, started again when one dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from edgepipe.agent.reading import Reading
from edgepipe.agent.settings import AgentSettings
from edgepipe.agent.worker_process import WorkerProcess, WorkerSpec
from edgepipe.core.profile import DeviceId, DeviceProfile
from edgepipe.errors import NodeError, first_of

RESTART_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""The wait before a dead worker is started again: the first time, the second, …"""
PATIENCE_S = 10.0
"""A worker that has not answered for so long stands in the log."""
STEADY_S = 60.0
"""A worker that lived for so long begins the waits anew when it dies."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFigures:
    """How often a device's worker was started, and what the one that is there says."""

    num_starts: int
    reading: Reading | None


class Crew:
    """Keeps a worker alive for each device. `fence_of` is what a new one is told first."""

    def __init__(
        self,
        devices: Sequence[DeviceProfile],
        specs: Mapping[DeviceId, WorkerSpec],
        *,
        settings: AgentSettings,
        fence_of: Callable[[DeviceId], int],
    ) -> None:
        self._devices = devices
        self._specs = specs
        self._settings = settings
        self._fence_of = fence_of
        self._workers: dict[DeviceId, WorkerProcess] = {}
        self._num_starts = Counter[DeviceId]()

    async def start(self) -> None:
        """Start every worker. Raises NodeError if one does not start."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for device in self._devices:
                    tasks.create_task(self._start(device.id))
        except BaseExceptionGroup as failures:
            raise first_of(failures) from failures

    async def keep(self) -> None:
        """Start workers again as they die, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for device in self._devices:
                tasks.create_task(self._keep(device.id))

    async def stop(self) -> None:
        """End every worker."""
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))

    def tell(self, device: DeviceId, fence: int) -> None:
        """Tell a device's worker who may use it; a dead one is told when it is back."""
        if device in self._workers:
            self._workers[device].set_fence(fence)

    def leave(self) -> None:
        """Have every worker end what runs on its device."""
        for worker in self._workers.values():
            worker.leave()

    async def answer(self) -> None:
        """Return once every worker that is alive has answered."""
        workers = tuple(self._workers.items())
        await asyncio.gather(*(_answer(device, worker) for device, worker in workers))

    def profiles(self) -> tuple[DeviceProfile, ...]:
        """The devices whose worker is alive."""
        return tuple(
            replace(
                device,
                port=self._settings.worker_port(index, self._workers[device.id].port),
                baseline_bytes=self._workers[device.id].baseline_bytes,
            )
            for index, device in enumerate(self._devices)
            if device.id in self._workers
        )

    async def figures(self) -> dict[DeviceId, WorkerFigures]:
        """How every worker stands, and what those that answer soon have done."""
        workers = [self._workers.get(device.id) for device in self._devices]
        readings = await asyncio.gather(*(_reading(worker) for worker in workers))
        return {
            device.id: WorkerFigures(num_starts=self._num_starts[device.id], reading=reading)
            for device, reading in zip(self._devices, readings, strict=True)
        }

    async def _start(self, device: DeviceId) -> None:
        worker = await WorkerProcess.start(self._specs[device])
        self._workers[device] = worker
        self._num_starts[device] += 1
        worker.set_fence(self._fence_of(device))
        _log.info("worker listens", device=device, pid=worker.pid, port=worker.port)

    async def _keep(self, device: DeviceId) -> None:
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            if device in self._workers:
                started_s = clock()
                code = await self._workers[device].wait()
                del self._workers[device]
                _log.error("worker died", device=device, code=code)
                if clock() - started_s > STEADY_S:
                    failures = 0
            await asyncio.sleep(RESTART_S[min(failures, len(RESTART_S) - 1)])
            failures += 1
            try:
                await self._start(device)
            except NodeError as error:
                _log.error("worker did not start", device=device, because=str(error))


async def _reading(worker: WorkerProcess | None) -> Reading | None:
    return None if worker is None else await worker.reading()


async def _answer(device: DeviceId, worker: WorkerProcess) -> None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await worker.answer()
    except TimeoutError:
        _log.warning("worker does not answer", device=device, pid=worker.pid)
        await worker.answer()
