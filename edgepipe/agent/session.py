"""One job's stage on this device: from its `Load` until the coordinator's stream ends.

The coordinator's commands come in, events go out; both are protobuf here and nowhere deeper.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import grpc
import structlog

from edgepipe.agent import deploy, deploy_training
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.generating import Generating
from edgepipe.agent.parking import Parking, free
from edgepipe.agent.resident import peak_resident_bytes, reset_peak
from edgepipe.agent.role import Role
from edgepipe.agent.training import Training
from edgepipe.core.api import API, check_api
from edgepipe.engine.base import Engine, Loaded, Progress
from edgepipe.engine.training import TrainingEngine
from edgepipe.errors import (
    EdgepipeError,
    LeaseLost,
    StageError,
    StageLost,
    WireError,
    first_of,
)
from edgepipe.transport import convert, inproc
from edgepipe.transport.channel import choose_address
from edgepipe.transport.grpc_link import dial
from edgepipe.transport.link import Hello, Link
from edgepipe.transport.stream_link import StreamLink
from edgepipe.wire.v1 import stage_pb2

DIAL_DEADLINE_S = 10.0
UPSTREAM_DEADLINE_S = 30.0
MAX_PENDING_EVENTS = 4096
PROGRESS_STEP_BYTES = 16 << 20
MAX_REASON_CHARS = 300
STATE_PER_WEIGHT = 8
"""A weight in two bytes has a master and two moments in four each, and then some."""
STATE_SLACK_BYTES = 64 << 20

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Session:
    """The state of one Run stream."""

    device: WorkerDevice
    fence: Fence
    parking: Parking
    load: stage_pb2.Load = field(default_factory=stage_pb2.Load)
    upstream: asyncio.Future[Link] = field(default_factory=asyncio.Future)
    _downstream: Link | None = None
    _channel: grpc.aio.Channel | None = None
    _engine: Engine | TrainingEngine | None = None
    _role: Role | None = None
    _max_unit_bytes: int = 0
    _units: tuple[str, ...] = ()
    _events: asyncio.Queue[stage_pb2.Event | None] = field(
        default_factory=lambda: asyncio.Queue(MAX_PENDING_EVENTS)
    )
    _background: list[asyncio.Task[None]] = field(default_factory=list)

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

    def take_upstream(self, link: StreamLink) -> None:
        """Be handed the boundary of the stage before this one."""
        if self.upstream.done():
            link.drop(StageLost("the stage that was dialled has its boundary, or is over"))
        else:
            self.upstream.set_result(link)

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
        links = [self._downstream]
        if self.upstream.done() and not self.upstream.cancelled():
            links.append(self.upstream.result())
        for link in links:
            if link is not None:
                await link.close()
        if self._channel is not None:
            await self._channel.close()
        self.upstream.cancel()
        if self.load.HasField("training") and self._engine is not None:
            await asyncio.shield(self.device.compute.run(partial(free, self._engine)))
        self.parking.park()
        self._put_last(None)

    def _fail(self, error: BaseException) -> None:
        """Tell the coordinator; what nobody raised on purpose stands in our log too."""
        if not isinstance(error, EdgepipeError):
            _log.error("stage failed", job=self.load.job, exc_info=error)
            error = StageError(f"its stage failed ({_reason(error)}); see its agent's log")
        else:
            _log.warning("stage failed", job=self.load.job, because=str(error))
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
        self._spawn(tasks, self._watch_lease())
        loaded = await (self._load_trainer() if load.HasField("training") else self._load_engine())
        self._max_unit_bytes = STATE_PER_WEIGHT * loaded.weight_bytes + STATE_SLACK_BYTES
        reply = stage_pb2.Loaded(
            weight_bytes=loaded.weight_bytes,
            kv_bytes=loaded.kv_bytes,
            baseline_bytes=self.device.baseline_bytes,
            peak_bytes=peak_resident_bytes(),
            units=self._units,
        )
        self._put(stage_pb2.Event(loaded=reply))

    async def _load_engine(self) -> Loaded:
        self._engine, loaded = await self.parking.load(
            deploy.weights_key(self.load),
            lambda: deploy.make_engine(self.load.engine, self.device.torch_device),
            deploy.stage_spec(self.load, self.device.store),
            self._progress(),
        )
        return loaded

    async def _load_trainer(self) -> Loaded:
        """Nothing that is trained outlives its session, so it is not parked."""
        await self.parking.clear()
        reset_peak()
        engine = deploy_training.make_trainer(self.load.engine, self.device.torch_device)
        self._engine = engine
        spec = deploy.stage_spec(self.load, self.device.store)
        training = convert.training_from_wire(self.load.training)
        progress = self._progress()
        loaded = await self.device.compute.run(lambda: engine.load(spec, training, progress))
        self._units = engine.units()
        return loaded

    async def _watch_lease(self) -> None:
        await self.fence.lost(self.load.fence)
        raise LeaseLost("the lease on this device expired, so its stage stopped; run it again")

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
        connected = await self._dial(connect)
        upstream = await self._await_upstream()
        self._role = role = self._make_role(upstream)
        self._put(stage_pb2.Event(connected=connected))
        await role.run()

    async def _dial(self, connect: stage_pb2.Connect) -> stage_pb2.Connected:
        if self.load.num_stages == 1:
            self._downstream, upstream = inproc.pair(deploy_training.credits_down(self.load))
            self.upstream.set_result(upstream)
            return stage_pb2.Connected()
        hello = self._hello(connect.fence)
        address, self._channel = await choose_address(
            convert.addresses_from_wire(connect.addresses),
            deadline_s=DIAL_DEADLINE_S,
            credentials=self.device.credentials,
            probe=hello,
        )
        self._downstream = await dial(
            self._channel,
            hello,
            peer=connect.node,
            max_frame_bytes=deploy_training.max_frame_bytes(self.load),
        )
        return stage_pb2.Connected(address=convert.address_to_wire(address))

    def _hello(self, fence: int) -> Hello:
        return Hello(
            api=API,
            job=self.load.job,
            epoch=self.load.epoch,
            fence=fence,
            from_stage=self.load.stage,
            credits=deploy_training.credits_down(self.load),
        )

    async def _await_upstream(self) -> Link:
        try:
            async with asyncio.timeout(UPSTREAM_DEADLINE_S):
                return await asyncio.shield(self.upstream)
        except TimeoutError:
            raise StageLost("the stage before this one did not connect; run it again") from None

    def _make_role(self, upstream: Link) -> Role:
        assert self._downstream is not None
        assert self._engine is not None
        if self.load.HasField("training"):
            return Training.of(
                self.load,
                self.device,
                cast("TrainingEngine", self._engine),
                max_unit_bytes=self._max_unit_bytes,
                upstream=upstream,
                downstream=self._downstream,
                tell=self._put,
            )
        return Generating.of(
            self.load,
            self.device,
            cast("Engine", self._engine),
            upstream=upstream,
            downstream=self._downstream,
            tell=self._put,
        )

    def trains(self) -> Training:
        """The role of a stage that trains. Raises WireError where it has none."""
        if not isinstance(self._role, Training):
            raise WireError("this stage does not train, or is not connected yet")
        return self._role

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
