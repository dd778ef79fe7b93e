"""A worker's gRPC service: one session at a time, and the boundaries that belong to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc
import structlog

from edgepipe.agent import deploy_training, profiling
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.link_speed import measure_link
from edgepipe.agent.parking import Parking
from edgepipe.agent.reading import Memory, Reading
from edgepipe.agent.resident import peak_resident_bytes, resident_bytes
from edgepipe.agent.role import Depths
from edgepipe.agent.session import Session
from edgepipe.core.api import API, check_api
from edgepipe.engine.base import Loaded
from edgepipe.errors import LeaseHeld, LeaseLost, WireError
from edgepipe.transport.grpc_link import SERVICE, Welcome, boundary_handler
from edgepipe.transport.link import Hello
from edgepipe.transport.measure import probe_handler
from edgepipe.transport.status import aborting
from edgepipe.wire.v1 import stage_pb2

PREVIOUS_DEADLINE_S = 10.0
PROFILE_PATIENCE_S = 10.0
"""A stage or a measurement whose lease is lost ends once its engine's call is done."""
Context = grpc.aio.ServicerContext[Any, Any]

_log = structlog.get_logger(__name__)


class StageServicer:
    """Runs what the coordinator of the current lease asks for."""

    def __init__(self, device: WorkerDevice, fence: Fence) -> None:
        self._device = device
        self._fence = fence
        self._parking = Parking(device.compute)
        self._session: Session | None = None
        self._free = asyncio.Lock()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service. Frames do not pass through protobuf's own (de)serialisers."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Run": grpc.stream_stream_rpc_method_handler(
                self.run,
                request_deserializer=stage_pb2.Command.FromString,
                response_serializer=stage_pb2.Event.SerializeToString,
            ),
            "Boundary": boundary_handler(self.accept),
            "Probe": probe_handler(self.accept_probe),
            "Profile": grpc.unary_stream_rpc_method_handler(
                self.profile,
                request_deserializer=stage_pb2.ProfileRequest.FromString,
                response_serializer=stage_pb2.ProfileEvent.SerializeToString,
            ),
            "MeasureLink": grpc.unary_unary_rpc_method_handler(
                self.measure_link,
                request_deserializer=stage_pb2.MeasureLinkRequest.FromString,
                response_serializer=stage_pb2.LinkMeasured.SerializeToString,
            ),
            "ExportState": grpc.unary_stream_rpc_method_handler(
                self.export_state,
                request_deserializer=stage_pb2.ExportStateRequest.FromString,
                response_serializer=stage_pb2.StateChunk.SerializeToString,
            ),
            "ImportState": grpc.stream_unary_rpc_method_handler(
                self.import_state,
                request_deserializer=stage_pb2.StateChunk.FromString,
                response_serializer=stage_pb2.ImportStateReply.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    async def run(
        self, commands: AsyncIterator[stage_pb2.Command], context: Context
    ) -> AsyncIterator[stage_pb2.Event]:
        """One job's stage. It waits for the one before to end, which its lost lease sees to."""
        async with aborting(context), self._alone(PREVIOUS_DEADLINE_S):
            session = Session(device=self._device, fence=self._fence, parking=self._parking)
            self._session = session
            running = asyncio.create_task(session.run(commands))
            try:
                async for event in session.events():
                    yield event
            finally:
                self._session = None
                running.cancel()
                await asyncio.wait({running})
                _log.info("stage ended")
                self._device.duty.end()

    def reading(self) -> Reading:
        """What the worker has done, and how it stands."""
        session, loaded = self._session, self._loaded()
        return Reading.of(
            self._device.figures,
            runs=session is not None,
            depths=Depths() if session is None else session.depths(),
            memory=Memory(
                resident_bytes=resident_bytes(),
                peak_bytes=peak_resident_bytes(),
                weight_bytes=0 if loaded is None else loaded.weight_bytes,
                kv_bytes=0 if loaded is None else loaded.kv_bytes,
            ),
        )

    def _loaded(self) -> Loaded | None:
        """What the engine that is here takes: a running stage's, or a parked one."""
        running = None if self._session is None else self._session.loaded
        return running or self._parking.loaded

    async def profile(
        self, request: stage_pb2.ProfileRequest, context: Context
    ) -> AsyncIterator[stage_pb2.ProfileEvent]:
        """How fast the device runs a model, for whoever leases it while no stage is on it."""
        async with aborting(context):
            work = profiling.check(request)
            await self._fence.require(request.fence)
            async with self._alone(PROFILE_PATIENCE_S):
                await self._parking.clear()
                measuring = profiling.profile(work, self._device, self._fence)
                async with aclosing(measuring) as events:  # ended before the device is free
                    async for event in events:
                        yield event

    async def measure_link(
        self, request: stage_pb2.MeasureLinkRequest, context: Context
    ) -> stage_pb2.LinkMeasured:
        """The link from here to another worker, for whoever leases both devices."""
        async with aborting(context):
            check_api(request.api)
            await self._fence.require(request.fence)
            return await measure_link(request, self._device.credentials)

    async def export_state(
        self, request: stage_pb2.ExportStateRequest, context: Context
    ) -> AsyncIterator[stage_pb2.StateChunk]:
        """What the running stage has trained, for whoever leases the device."""
        async with aborting(context):
            session = await self._session_of(request.fence)
            async with aclosing(session.trains().export(request.order)) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def import_state(
        self, chunks: AsyncIterator[stage_pb2.StateChunk], context: Context
    ) -> stage_pb2.ImportStateReply:
        """What the running stage goes on from."""
        async with aborting(context):
            first = await anext(aiter(chunks), None)
            if first is not None:
                session = await self._session_of(first.fence)
                await session.trains().take_state(_with(first, chunks))
            return stage_pb2.ImportStateReply()

    async def _session_of(self, fence: int) -> Session:
        await self._fence.require(fence)
        if self._session is None:
            raise LeaseLost("no stage runs on this device any more")
        return self._session

    @asynccontextmanager
    async def _alone(self, patience_s: float) -> AsyncIterator[None]:
        """Wait for the session before to end. Raises LeaseHeld if it does not."""
        try:
            async with asyncio.timeout(patience_s):
                await self._free.acquire()
        except TimeoutError:
            raise LeaseHeld("another job's stage still runs on this device") from None
        try:
            yield
        finally:
            self._free.release()

    async def accept(self, hello: Hello) -> Welcome:
        """Take the boundary of the stage before ours, if it belongs to the running job.

        Raises WireError for any other stage, and for a second boundary.
        """
        session = await self._check(hello)
        before = (session.load.stage - 1) % session.load.num_stages
        if hello.from_stage != before or session.boundaries.has_upstream:
            raise WireError(
                f"stage {session.load.stage} takes one boundary, of stage {before}, "
                f"and none of stage {hello.from_stage} now"
            )
        ours = Hello(
            api=API,
            job=hello.job,
            epoch=session.load.epoch,
            fence=hello.fence,
            from_stage=session.load.stage,
            credits=deploy_training.credits_up(session.load),
        )
        return Welcome(
            hello=ours,
            take=session.boundaries.take_upstream,
            max_frame_bytes=deploy_training.max_frame_bytes(session.load),
            eager=session.load.HasField("training"),
        )

    async def accept_probe(self, hello: Hello) -> None:
        """Whether to answer a measurement: only for whoever leases this device."""
        check_api(hello.api, "the other end of this link")
        await self._fence.require(hello.fence)

    async def _check(self, hello: Hello) -> Session:
        check_api(hello.api, "the stage before this one")
        await self._fence.require(hello.fence)
        session = self._session
        if session is None or session.load.job != hello.job:
            raise LeaseLost(f"job {hello.job} has no stage on this device any more")
        return session


async def _with(
    first: stage_pb2.StateChunk, rest: AsyncIterator[stage_pb2.StateChunk]
) -> AsyncIterator[stage_pb2.StateChunk]:
    yield first
    async for chunk in rest:
        yield chunk
