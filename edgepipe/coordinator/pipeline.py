"""The shell of one job: carries out what edgepipe.core.job decides.

async with open_pipeline(deployment, nodes) as pipeline:
    async for token in pipeline.generate(request): …
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import assert_never

from edgepipe.coordinator.deployment import Deployment, StagePlace
from edgepipe.coordinator.leases import LeaseClient
from edgepipe.coordinator.nodes import Node
from edgepipe.coordinator.progress import Progress
from edgepipe.coordinator.provide import provide
from edgepipe.coordinator.stage_client import (
    PromptLogits,
    Report,
    StageClient,
    StageMeter,
    StageReport,
)
from edgepipe.coordinator.worker_calls import LinkFigures, WorkerCalls
from edgepipe.core.failure import StageFailure, cause, named
from edgepipe.core.frame import SampledToken, SequenceId
from edgepipe.core.job import (
    AcquireLease,
    AdmitSequence,
    AnnounceReady,
    BackedOff,
    BackOff,
    CancelRequested,
    CancelSequence,
    ConnectStage,
    EmitToken,
    Event,
    GiveUpLeases,
    Instruction,
    Job,
    LeaseGranted,
    LeaseRefused,
    LoadStage,
    ProvideWeights,
    ReleaseLeases,
    Request,
    Requested,
    Started,
    WeightsProvided,
)
from edgepipe.core.lease import Granted
from edgepipe.core.profile import Address, NodeId
from edgepipe.errors import EdgepipeError, LeaseHeld, StageError, first_of
from edgepipe.wire.v1 import agent_pb2_grpc

BACK_OFF_S = 0.5
GRACE_S = 0.5
"""How long a lost connection waits for a better explanation from another stage."""
TOKEN_DEADLINE_S = 600.0
MAX_PENDING_TOKENS = 1 << 16

Produced = SampledToken | PromptLogits


@dataclass(slots=True, kw_only=True)
class Pipeline:
    """One job on its devices. Made by `open_pipeline`."""

    deployment: Deployment
    nodes: Mapping[NodeId, Node]
    progress: Progress
    tasks: asyncio.TaskGroup
    clients: list[StageClient] = field(default_factory=list)
    num_tokens: int = 0
    reports: asyncio.Queue[StageReport] = field(default_factory=asyncio.Queue)
    _job: Job = field(init=False)
    _granted: dict[int, Granted] = field(default_factory=dict)
    _failures: list[StageFailure] = field(default_factory=list)
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _streams: dict[SequenceId, asyncio.Queue[Produced]] = field(default_factory=dict)
    _meters: asyncio.Queue[StageMeter] = field(default_factory=asyncio.Queue)
    _providing: dict[NodeId, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._job = Job(
            num_stages=len(self.deployment.stages), lease_order=self.deployment.lease_order
        )

    async def generate(self, request: Request) -> AsyncGenerator[Produced, None]:
        """The request's tokens as they are sampled; leaving the loop early cancels it."""
        stream: asyncio.Queue[Produced] = asyncio.Queue(MAX_PENDING_TOKENS)
        self._streams[request.sequence] = stream
        self._post(Requested(request=request))
        try:
            while True:
                produced = await self._next(stream)
                yield produced
                if isinstance(produced, SampledToken) and produced.finish is not None:
                    return
        finally:
            del self._streams[request.sequence]
            self._post(CancelRequested(sequence=request.sequence))

    async def measure_link(self, source: int, target: int, frame_bytes: int) -> LinkFigures:
        """What one stage's device reaches towards another's, with real frames."""
        here = self.clients[source]
        worker = WorkerCalls(who=here.who, channel=here.channel, fence=self._job.fences[source])
        return await worker.measure_link(
            self._addresses(source, target),
            job=self.deployment.job,
            fence=self._job.fences[target],
            node=self.deployment.stages[target].node.name,
            frame_bytes=frame_bytes,
        )

    def fence(self, stage: int) -> int:
        """Of the lease on a stage's device."""
        return self._job.fences[stage]

    async def meter(self) -> list[StageMeter]:
        """What every stage has done since it was loaded, in ring order."""
        for client in self.clients:
            client.meter()
        async with asyncio.timeout(TOKEN_DEADLINE_S):
            meters = [await self._meters.get() for _ in self.clients]
        return sorted(meters, key=lambda meter: meter.stage)

    @staticmethod
    async def _next(stream: asyncio.Queue[Produced]) -> Produced:
        if not stream.empty():
            return stream.get_nowait()
        try:
            async with asyncio.timeout(TOKEN_DEADLINE_S):
                return await stream.get()
        except TimeoutError:
            raise StageError(
                f"no token came for {TOKEN_DEADLINE_S:.0f} s; see the agents' logs"
            ) from None

    # ------------------------------------------------------------------------------- the shell

    def start(self) -> None:
        """Begin to lease, load and connect."""
        self._post(Started())

    async def ready(self) -> None:
        """Return once the ring is closed."""
        await self._ready.wait()

    def stop(self) -> None:
        """End every stage and every task of the job."""
        for client in self.clients:
            client.close()
        for task in self._tasks:
            task.cancel()

    async def release(self) -> None:
        """Give back every device, whatever happened before."""
        await self._release({stage: each.fence for stage, each in self._granted.items()})

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        """Run `work` until it ends or the job does."""
        task = self.tasks.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _post(self, event: Event | Report) -> None:
        """Let the job decide, and carry out at once what it says."""
        match event:
            case PromptLogits():
                self._produce(event.sequence, event)
            case StageMeter():
                self._meters.put_nowait(event)
            case StageReport():
                self.reports.put_nowait(event)
            case _:
                for instruction in self._job.handle(event):
                    self._carry_out(instruction)

    def _produce(self, sequence: SequenceId, produced: Produced) -> None:
        stream = self._streams.get(sequence)
        if stream is not None:
            stream.put_nowait(produced)

    def _carry_out(self, instruction: Instruction) -> None:  # noqa: C901 -- a case per instruction
        match instruction:
            case AcquireLease():
                self._spawn(self._acquire(instruction.stage))
            case ReleaseLeases():
                self._spawn(self._release(instruction.fences))
            case BackOff():
                self._spawn(self._back_off(instruction.attempt))
            case ProvideWeights():
                self._spawn(self._keep(instruction.stage))
                self._spawn(self._provide(instruction.stage))
            case LoadStage():
                self._load(instruction)
            case ConnectStage():
                self._connect(instruction)
            case AnnounceReady():
                self._ready.set()
            case AdmitSequence():
                self.clients[instruction.stage].admit(instruction.request)
            case CancelSequence():
                self.clients[instruction.stage].cancel(instruction.sequence)
            case EmitToken():
                self.num_tokens += 1
                self._produce(instruction.sampled.sequence, instruction.sampled)
            case GiveUpLeases():
                raise LeaseHeld(instruction.reason)
            case _:
                assert_never(instruction)

    # ---------------------------------------------------------------------------------- leases

    def _lease(self, stage: int) -> LeaseClient:
        place = self.deployment.stages[stage]
        channel = self.nodes[place.node.id].channel
        return LeaseClient(who=place.node.name, device=place.device.id, channel=channel)

    async def _acquire(self, stage: int) -> None:
        try:
            granted = await self._lease(stage).acquire(self.deployment.job)
        except LeaseHeld as error:
            self._post(LeaseRefused(stage=stage, reason=str(error)))
        else:
            self._granted[stage] = granted
            self._post(LeaseGranted(stage=stage, fence=granted.fence))

    async def _keep(self, stage: int) -> None:
        """Renew the stage's lease: weights may take longer than it lasts."""
        await self._lease(stage).keep(self._granted[stage], lambda: self.num_tokens)

    async def _release(self, fences: Mapping[int, int]) -> None:
        async with asyncio.TaskGroup() as tasks:
            for stage, fence in fences.items():
                tasks.create_task(self._lease(stage).release(fence))

    async def _back_off(self, attempt: int) -> None:
        await asyncio.sleep(BACK_OFF_S * attempt * random.uniform(0.5, 1.5))  # noqa: S311
        self._post(BackedOff())

    # --------------------------------------------------------------------------------- loading

    async def _provide(self, stage: int) -> None:
        place = self.deployment.stages[stage]
        node = self.nodes[place.node.id]
        async with self._providing[node.profile.id]:
            await provide(
                agent_pb2_grpc.AgentStub(node.channel),
                place.parts,
                lambda done, total: self.progress.sending(stage, done, total),
                who=node.profile.name,
            )
        self._post(WeightsProvided(stage=stage))

    def _load(self, instruction: LoadStage) -> None:
        client = self.clients[instruction.stage]
        self._spawn(self._serve(client))
        client.load(self.deployment, instruction.fence)

    async def _serve(self, client: StageClient) -> None:
        """Serve a stage until it ends. Raises what explains that, among all that ended by then."""
        failure = await client.run()
        self._failures.append(failure)
        if not failure.is_conclusive:
            await asyncio.sleep(GRACE_S)
        found = cause(self._failures)
        raise named(found.error, found.who)

    async def explained(self, error: EdgepipeError, who: str) -> EdgepipeError:
        """What to raise where a call beside a stage's own stream failed: why the stage ended.

        The call's own error where the stage goes on.
        """
        failure = StageFailure(who=who, error=error, reported=True)
        if not failure.is_conclusive:
            await asyncio.sleep(GRACE_S)
        found = cause([*self._failures, failure])
        return named(found.error, found.who)

    def _connect(self, instruction: ConnectStage) -> None:
        place = self.deployment.stages[instruction.next_stage]
        self.clients[instruction.stage].connect(
            self._addresses(instruction.stage, instruction.next_stage),
            instruction.fence,
            place.node.name,
            upstream_node=self.deployment.stages[instruction.stage - 1].node.name,
        )

    def _addresses(self, source: int, target: int) -> tuple[Address, ...]:
        """Every way from one stage to another; loopback first where they share a machine."""
        here, there = self.deployment.stages[source], self.deployment.stages[target]
        addresses = [replace(address, port=there.device.port) for address in there.node.addresses]
        if here.node.host_id == there.node.host_id:
            addresses.insert(0, Address(host="127.0.0.1", port=there.device.port, interface="lo"))
        return tuple(dict.fromkeys(addresses))


@asynccontextmanager
async def open_pipeline(
    deployment: Deployment, nodes: Mapping[NodeId, Node], progress: Progress
) -> AsyncIterator[Pipeline]:
    """Lease, load and connect every stage; on leaving, give everything back.

    Raises the first error of any stage, in the body too: a lost stage cancels what is awaited.
    """
    tasks = asyncio.TaskGroup()
    pipeline = Pipeline(deployment=deployment, nodes=nodes, progress=progress, tasks=tasks)
    try:
        async with tasks:
            for index, place in enumerate(deployment.stages):
                pipeline.clients.append(_client(pipeline, index, place))
            pipeline.start()
            try:
                await pipeline.ready()
                yield pipeline
            finally:
                pipeline.stop()
    except BaseExceptionGroup as failures:
        raise first_of(failures) from failures
    finally:
        await pipeline.release()
        for client in pipeline.clients:
            await client.channel.close()


def _client(pipeline: Pipeline, index: int, place: StagePlace) -> StageClient:
    node = pipeline.nodes[place.node.id]
    return StageClient(
        stage=index,
        who=f"{place.node.name} ({place.device.id})",
        channel=node.worker_channel(place.device),
        post=pipeline._post,  # noqa: SLF001 -- the pipeline's own factory
        on_loading=pipeline.progress.loading,
    )
