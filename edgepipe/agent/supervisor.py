"""The agent's main process: control, health, mDNS and the weight cache. It imports no torch.

supervisor (this process)       Agent service, gRPC health, leases, weights, advertisement
├── worker of device 0          Stage service, on a port of its own
└── worker of device 1          …
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

import grpc
import structlog

from edgepipe import __version__
from edgepipe.agent.agent_servicer import AgentServicer
from edgepipe.agent.crew import Crew
from edgepipe.agent.devices import Device, find_devices, memory_now, offer
from edgepipe.agent.exposition import AgentView, DeviceView, Exposition
from edgepipe.agent.host import host_id, machine_id
from edgepipe.agent.lease_book import FenceStore, LeaseBook
from edgepipe.agent.notify import Notifier
from edgepipe.agent.settings import AgentSettings
from edgepipe.agent.stopping import Stopping
from edgepipe.agent.weights import WeightStore
from edgepipe.agent.worker_process import WorkerSpec
from edgepipe.core.api import API
from edgepipe.core.profile import DeviceId, DeviceProfile, NodeId, NodeProfile
from edgepipe.core.reach import is_loopback
from edgepipe.discovery.addresses import advertised, multicast_hosts, read_interfaces, select
from edgepipe.discovery.advertiser import Advertiser
from edgepipe.discovery.record import Advertisement
from edgepipe.obs.scrape import scraping
from edgepipe.transport.channel import add_standard_services, bind, create_server
from edgepipe.wire.v1 import agent_pb2_grpc

SERVICE = "edgepipe.wire.v1.Agent"
GRACE_S = 3.0
"""How long calls may go on once the workers are gone."""
FAREWELL_S = 5.0
"""How long those whose jobs we end may take to hear of it and give their devices back."""
STOP_S = 15.0
"""What the rest of stopping takes at most."""

_log = structlog.get_logger(__name__)


class Identity(FenceStore, Protocol):
    """Who this node is, and its fence counter."""

    id: NodeId


async def run_agent(
    settings: AgentSettings, identity: Identity, *, mdns: bool, on_ready: Callable[[int], None]
) -> None:
    """Run an agent until SIGTERM or SIGINT, see edgepipe.agent.stopping.

    Args:
        settings: see AgentSettings.
        identity: held by this agent alone.
        mdns: whether to advertise.
        on_ready: called with the port once everything listens.

    Raises:
        UsageError: a device, an interface or a limit that is not here.
        PortInUse: somebody else listens there.
        NodeError: a worker did not start.
    """
    stopping = Stopping.on_signals()
    server = create_server()
    try:
        port = bind(server, settings.listen.host, settings.listen.port, None)
        supervisor = Supervisor(settings, identity, await find_devices(settings), port)
        supervisor.serve_on(server)
        work = supervisor.run(server, stopping, mdns=mdns, on_ready=on_ready)
        await _until(stopping.end, work)
        _log.info("agent stops")
    finally:
        await server.stop(GRACE_S)


class Supervisor:
    """One agent's parts and how they are tied together."""

    def __init__(
        self, settings: AgentSettings, identity: Identity, found: Sequence[Device], port: int
    ) -> None:
        self._settings = settings
        self._id = identity.id
        self._found = found
        devices = offer(found, settings)
        self._leases = LeaseBook(
            [device.id for device in devices],
            identity,
            self._tell,
            max_ttl_s=settings.lease_ttl_s,
        )
        self._crew = Crew(
            devices, _specs(settings, devices), settings=settings, fence_of=self._leases.fence
        )
        self._servicer = AgentServicer(
            profile=self.profile, leases=self._leases, store=WeightStore(settings.home)
        )
        self._notifier = Notifier.of(os.environ)
        self._interfaces = read_interfaces()
        select(self._interfaces, settings.interface)  # that it is here, wherever we listen
        self._addresses = advertised(
            self._interfaces,
            replace(settings.listen, port=port),
            only=settings.interface,
            advertise=settings.advertise,
        )

    def serve_on(self, server: grpc.aio.Server) -> None:
        """Register the agent's services."""
        agent_pb2_grpc.add_AgentServicer_to_server(self._servicer, server)
        add_standard_services(server, [SERVICE])

    async def run(
        self,
        server: grpc.aio.Server,
        stopping: Stopping,
        *,
        mdns: bool,
        on_ready: Callable[[int], None],
    ) -> None:
        """Start the workers, serve, advertise, until told to leave; on being cancelled undo it."""
        try:
            await self._crew.start()
            await server.start()
            async with AsyncExitStack() as advertised, self._measured():
                await advertised.enter_async_context(self._advertising(enabled=mdns))
                async with asyncio.TaskGroup() as tasks:
                    keeping = (
                        self._crew.keep(),
                        self._leases.expire(),
                        self._notifier.watch(self._crew.answer),
                    )
                    kept = [tasks.create_task(work) for work in keeping]
                    self._warn_of_plain_text()
                    _log.info("agent listens", addresses=[str(a) for a in self._addresses])
                    on_ready(self._addresses[0].port)
                    self._notifier.ready(self._status())
                    stopping.serves = True
                    await stopping.leave.wait()
                    self._leases.close()
                    await advertised.aclose()
                    await self._leave()
                    for task in kept:
                        task.cancel()
        finally:
            await self._crew.stop()

    async def _leave(self) -> None:
        """Let jobs end by themselves for a while; then end them, and have them told why."""
        grace_s = self._settings.grace_s
        self._notifier.stopping(grace_s + FAREWELL_S + STOP_S)
        if not self._leases.held:
            return
        _log.info("agent leaves; a second signal ends it at once", grace_s=grace_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self._leases.all_free()
        if self._leases.held:
            _log.warning("agent ends what runs here", devices=self._leases.held)
            self._crew.leave()
            self._servicer.leave()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._leases.all_free()

    def profile(self) -> NodeProfile:
        """This machine as it is now."""
        free = {device.id: memory_now(device).free_bytes for device in self._found}
        devices = (
            replace(
                device,
                memory_free_bytes=free[device.id],
                lease=self._leases.view(device.id),
            )
            for device in self._crew.profiles()
        )
        return NodeProfile(
            id=self._id,
            name=self._settings.name,
            version=__version__,
            api=API,
            cluster=self._settings.cluster,
            host_id=host_id(),
            addresses=self._addresses,
            devices=tuple(devices),
            machine_id=machine_id(),
        )

    async def view(self) -> AgentView:
        """What this machine's devices and workers do. Workers are asked."""
        figures = await self._crew.figures()
        devices = []
        for device in self._found:
            if (own := figures.get(device.id)) is None:
                continue
            memory = memory_now(device)
            devices.append(
                DeviceView(
                    id=device.id,
                    memory_bytes=memory.total_bytes,
                    memory_free_bytes=memory.free_bytes,
                    is_leased=self._leases.fence(device.id) != 0,
                    num_starts=own.num_starts,
                    reading=own.reading,
                )
            )
        return AgentView(name=self._settings.name, version=__version__, devices=devices)

    @asynccontextmanager
    async def _measured(self) -> AsyncIterator[None]:
        """Answer who scrapes the agent, where that was set."""
        listen = self._settings.metrics
        if listen is None:
            yield
            return
        exposition = Exposition()

        async def text() -> bytes:
            return exposition.text(await self.view())

        async with scraping(listen, text) as port:
            _log.info("metrics are served", address=str(replace(listen, port=port)))
            yield

    def _tell(self, device: DeviceId, fence: int) -> None:
        self._crew.tell(device, fence)
        self._notifier.status(self._status())

    def _status(self) -> str:
        offered = [device.id for device in self._crew.profiles()]
        held = len(self._leases.held)
        return f"{self._settings.name} offers {', '.join(offered)}; {held} leased"

    def _warn_of_plain_text(self) -> None:
        open_to_others = [a for a in self._addresses if not is_loopback(a.host)]
        if open_to_others and not self._settings.insecure:
            _log.warning(
                "PLAIN TEXT: anyone on this network can use this machine and read what it "
                "computes; trust the network, and accept this with --insecure"
            )

    @asynccontextmanager
    async def _advertising(self, *, enabled: bool) -> AsyncIterator[None]:
        if not enabled:
            yield
            return
        settings = self._settings
        hosts = multicast_hosts(self._interfaces, settings.listen.host, only=settings.interface)
        try:
            advertiser = Advertiser(hosts)
        except OSError as error:
            _log.warning("mDNS cannot be used here: others need --peer", because=str(error))
            yield
            return
        try:
            await advertiser.start(self._advertisement())
            yield
        finally:
            await advertiser.withdraw()

    def _advertisement(self) -> Advertisement:
        profile = self.profile()
        return Advertisement(
            id=profile.id,
            name=profile.name,
            version=profile.version,
            cluster=profile.cluster,
            api=profile.api,
            devices=", ".join(f"{device.id} {device.name}" for device in profile.devices),
            addresses=profile.addresses,
        )


def _specs(settings: AgentSettings, devices: Sequence[DeviceProfile]) -> dict[DeviceId, WorkerSpec]:
    return {
        device.id: WorkerSpec(
            device=device.id,
            host=settings.listen.host,
            port=settings.worker_listen(index).port,
            num_threads=device.num_threads,
            slowdown=device.slowdown,
            home=str(settings.home),
            node=settings.name,
            log_format=settings.log_format,
            log_level=settings.log_level,
        )
        for index, device in enumerate(devices)
    }


async def _until(stop: asyncio.Event, work: Coroutine[None, None, None]) -> None:
    """Run `work` until it ends or `stop` is set, which cancels it."""
    running = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        running.cancel()
        await asyncio.wait({running})
    if not running.cancelled():
        running.result()
