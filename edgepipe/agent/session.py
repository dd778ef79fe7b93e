"""One job's stage on this device: from its `Load` until the coordinator's stream ends.

The coordinator's commands come in, events go out; both are protobuf here and nowhere deeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field

import structlog

from edgepipe.agent import deploy, deploy_training
from edgepipe.agent.boundaries import Boundaries
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.figures import Neighbours
from edgepipe.agent.loading import StageEngine, load_stage
from edgepipe.agent.parking import Parking
from edgepipe.agent.resident import peak_resident_bytes
from edgepipe.agent.role import Depths, Role
from edgepipe.agent.training import Training
from edgepipe.core.api import check_api
from edgepipe.engine.base import Loaded, Progress
from edgepipe.errors import EdgepipeError, StageError, StageLost, WireError, first_of
from edgepipe.wire.v1 import stage_pb2

MAX_PENDING_EVENTS = 4096
PROGRESS_STEP_BYTES = 16 << 20
MAX_REASON_CHARS = 300
END_GRACE_S = 0.1
"""A neighbour that hangs up may have heard of the job's end before we do: that is no fault."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Session:
    """The state of one Run stream."""

    device: WorkerDevice
    fence: Fence
    parking: Parking
    load: stage_pb2.Load = field(default_factory=stage_pb2.Load)
    boundaries: Boundaries = field(init=False)
    _engine: StageEngine | None = None
    _role: Role | None = None
    _events: asyncio.Queue[stage_pb2.Event | None] = field(
        default_factory=lambda: asyncio.Queue(MAX_PENDING_EVENTS)
    )
    _background: list[asyncio.Task[None]] = field(default_factory=list)
    _has_failed: bool = False

    def __post_init__(self) -> None:
        self.boundaries = Boundaries(credentials=self.device.credentials)

    async def run(self, commands: AsyncIterator[stage_pb2.Command]) -> None:
        """Obey commands until their stream ends. A failure becomes the last event."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for command in commands:
                    await self._obey(command, tasks)
                for task in self._background:
                    task.cancel()
        except* Exception as failures:  # noqa: BLE001 -- this task's top: logged, and told
            self._fail(first_of(failures))
        finally:
            await self._close()

    async def events(self) -> AsyncIterator[stage_pb2.Event]:
        """What to tell the coordinator, until the session is over."""
        while (event := await self._events.get()) is not None:
            yield event

    async def _obey(self, command: stage_pb2.Command, tasks: asyncio.TaskGroup) -> None:
        match command.WhichOneof("command"):
            case "load":
                await self._load(command.load, tasks)
            case "connect":
                self._spawn(tasks, self._serve_ring(command.connect))
            case _:
                self.role().obey(command)

    def _spawn(self, tasks: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        self._background.append(tasks.create_task(work))

    async def _close(self) -> None:
        await self.boundaries.close()
        if self._engine is not None:
            await self._engine.release()
        self._put_last(None)

    def _fail(self, error: BaseException) -> None:
        """Tell the coordinator, once; what nobody raised on purpose stands in our log too."""
        if self._has_failed:
            return
        self._has_failed = True
        self.device.figures.faults[type(error).__name__] += 1
        if not isinstance(error, EdgepipeError):
            _log.error("stage failed", exc_info=error)
            error = StageError(f"its stage failed ({_reason(error)}); see its agent's log")
        else:
            _log.warning("stage failed", because=str(error))
        failed = stage_pb2.Failed(kind=type(error).__name__, message=str(error))
        self._put_last(stage_pb2.Event(failed=failed))

    def _put(self, event: stage_pb2.Event | None) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            raise StageError("the coordinator does not read what this stage sends") from None

    def _put_last(self, event: stage_pb2.Event | None) -> None:
        """What matters more than anything that is still in the queue."""
        while self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(event)

    # ------------------------------------------------------------------------------- loading

    async def _load(self, load: stage_pb2.Load, tasks: asyncio.TaskGroup) -> None:
        check_api(load.api)
        deploy.check(load)
        if load.HasField("training"):
            deploy_training.check(load)
        await self.fence.require(load.fence)
        self.load = load
        self.device.duty.begin(load.job, load.stage, (load.first, load.end))
        self._spawn(tasks, self._watch_lease())
        self._engine = await load_stage(load, self.device, self.parking, self._progress())
        loaded = self._engine.loaded
        reply = stage_pb2.Loaded(
            weight_bytes=loaded.weight_bytes,
            kv_bytes=loaded.kv_bytes,
            baseline_bytes=self.device.baseline_bytes,
            peak_bytes=peak_resident_bytes(),
            units=self._engine.units,
        )
        self._put(stage_pb2.Event(loaded=reply))
        _log.info("stage loaded", weight_bytes=loaded.weight_bytes, kv_bytes=loaded.kv_bytes)

    async def _watch_lease(self) -> None:
        """Tell of its end at once: the engine may be busy for longer than the agent has left."""
        await self.fence.lost(self.load.fence)
        error = self.fence.ended(
            "the lease on this device expired, so its stage stopped; run it again"
        )
        self._fail(error)
        raise error

    def _progress(self) -> Progress:
        """Called on the compute thread for every tensor; says something every few megabytes."""
        loop = asyncio.get_running_loop()
        reported = 0

        def report(done: int, total: int) -> None:
            nonlocal reported
            if done - reported >= PROGRESS_STEP_BYTES or done == total:
                reported = done
                loading = stage_pb2.Loading(done_bytes=done, total_bytes=total)
                loop.call_soon_threadsafe(self._put, stage_pb2.Event(loading=loading))

        return report

    # ------------------------------------------------------------------------------- the ring

    async def _serve_ring(self, connect: stage_pb2.Connect) -> None:
        """Close the ring on both sides of this stage, then serve it until the job ends."""
        if self._engine is None:
            raise WireError("a stage was told to connect before it was loaded")
        downstream, connected = await self.boundaries.dial(self.load, connect)
        upstream = await self.boundaries.upstream()
        neighbours = Neighbours()
        if self.load.num_stages > 1:
            neighbours = Neighbours(upstream=connect.upstream_node, downstream=connect.node)
        role = self._engine.role(
            upstream=upstream, downstream=downstream, neighbours=neighbours, tell=self._put
        )
        self._role = role
        self._put(stage_pb2.Event(connected=connected))
        _log.info("stage connected", upstream=neighbours.upstream, downstream=neighbours.downstream)
        try:
            await role.run()
        except StageLost:
            await asyncio.sleep(END_GRACE_S)
            raise

    @property
    def loaded(self) -> Loaded | None:
        """What the stage takes of the device, once it is loaded."""
        return None if self._engine is None else self._engine.loaded

    def trains(self) -> Training:
        """The role of a stage that trains. Raises WireError where it has none."""
        if not isinstance(self._role, Training):
            raise WireError("this stage does not train, or is not connected yet")
        return self._role

    def depths(self) -> Depths:
        """What waits at the stage now."""
        return Depths() if self._role is None else self._role.depths()

    def role(self) -> Role:
        """What the stage does. Raises WireError before it is connected."""
        if self._role is None:
            raise WireError("work was sent to a stage that is not connected yet")
        return self._role


def _reason(error: BaseException) -> str:
    """An exception's class and the first line of what it says."""
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0][:MAX_REASON_CHARS]}" if lines else name
