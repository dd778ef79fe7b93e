"""Agents in this process: the real servicers on real gRPC servers on loopback, no supervisor.

Their engines are emulated, so a pipeline over them is there in milliseconds. Each agent's
worker listens on a port of its own, as it does in a process of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from edgepipe import __version__
from edgepipe.agent.agent_servicer import AgentServicer
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.home import EphemeralIdentity
from edgepipe.agent.lease_book import LeaseBook
from edgepipe.agent.stage_servicer import StageServicer
from edgepipe.agent.weights import WeightStore
from edgepipe.coordinator.emulated import emulate, emulated_deployment
from edgepipe.coordinator.nodes import Roster, Search, find_nodes
from edgepipe.coordinator.pipeline import Pipeline, open_pipeline
from edgepipe.coordinator.progress import Silent
from edgepipe.core.api import API
from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceKind,
    DeviceProfile,
    NodeId,
    NodeProfile,
)
from edgepipe.transport.channel import bind, create_server
from edgepipe.wire.v1 import agent_pb2_grpc

CPU = DeviceId("cpu")
CLUSTER = "in-process"
HOST = "127.0.0.1"


ENGINES = ("torch", "onnx", "emulated")


@dataclass
class Agent:
    """One agent; `book` is its supervisor's, `fence` its worker's."""

    name: str
    book: LeaseBook = field(init=False)
    fence: Fence = field(default_factory=Fence)
    port: int = 0
    worker_port: int = 0
    _words: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self, home: Path, stack: AsyncExitStack) -> None:
        self.book = LeaseBook([CPU], EphemeralIdentity(), self._tell)
        store = WeightStore(home)
        device = WorkerDevice(
            torch_device=torch.device("cpu"),
            slowdown=1.0,
            baseline_bytes=0,
            store=store,
            compute=stack.enter_context(ComputeThread(f"{self.name} compute")),
            coding=stack.enter_context(ComputeThread(f"{self.name} coding")),
            credentials=None,
        )
        worker, supervisor = create_server(), create_server()
        StageServicer(device, self.fence).add_to(worker)
        servicer = AgentServicer(profile=self.profile, leases=self.book, store=store)
        agent_pb2_grpc.add_AgentServicer_to_server(servicer, supervisor)
        self.worker_port = bind(worker, HOST, 0, None)
        self.port = bind(supervisor, HOST, 0, None)
        for server in (worker, supervisor):
            await server.start()
            stack.push_async_callback(server.stop, 0)

    def _tell(self, _device: DeviceId, fence: int) -> None:
        word = asyncio.get_running_loop().create_task(self.fence.set(fence))
        self._words.add(word)
        word.add_done_callback(self._words.discard)

    def profile(self) -> NodeProfile:
        device = DeviceProfile(
            id=CPU,
            kind=DeviceKind.CPU,
            name="emulated",
            pool="host",
            memory_bytes=1 << 30,
            memory_free_bytes=1 << 30,
            memory_limit_bytes=1 << 30,
            baseline_bytes=0,
            port=self.worker_port,
            num_threads=1,
            engines=ENGINES,
            lease=self.book.view(CPU),
        )
        return NodeProfile(
            id=NodeId(self.name),
            name=self.name,
            version=__version__,
            api=API,
            cluster=CLUSTER,
            host_id="this process",
            addresses=(Address(host=HOST, port=self.port),),
            devices=(device,),
        )


@asynccontextmanager
async def running_agents(count: int, home: Path) -> AsyncIterator[list[Agent]]:
    async with AsyncExitStack() as stack:
        agents = [Agent(name=f"node-{index}") for index in range(count)]
        for agent in agents:
            await agent.start(home, stack)
        yield agents


@asynccontextmanager
async def found(agents: Sequence[Agent]) -> AsyncIterator[Roster]:
    peers = tuple(Address(host=HOST, port=agent.port) for agent in agents)
    async with find_nodes(Search(cluster=CLUSTER, peers=peers)) as roster:
        yield roster


@asynccontextmanager
async def emulated_pipeline(
    agents: Sequence[Agent], *, stage_s: Sequence[float] = (0.0,), num_slots: int = 4
) -> AsyncIterator[Pipeline]:
    """A running job over all agents; greedy tokens are the positions they are sampled from."""
    async with found(agents) as roster:
        deployment = emulated_deployment(
            emulate(roster, num_stages=None, stage_s=stage_s),
            num_slots=num_slots,
            max_positions=256,
            prefill_chunk=16,
            codec=None,
        )
        async with open_pipeline(deployment, roster.nodes, Silent()) as pipeline:
            yield pipeline
