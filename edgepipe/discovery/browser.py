"""Watches mDNS for agents that appear and withdraw.

A clean exit is seen at once. A killed agent, or one whose machine lost power, is not seen to go
until its records expire (up to 75 minutes): that is for health checks to find.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import structlog
from zeroconf import DNSQuestionType, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from edgepipe.core.cluster import Appeared, NodeSighting, Withdrawn
from edgepipe.discovery.closing import close
from edgepipe.discovery.record import SERVICE_TYPE, MalformedRecord, read_sighting

MAX_INSTANCES = 256
_MAX_EVENTS = 1024
_RESOLVE_MS = 3000

_log = structlog.get_logger(__name__)

Sighted = Appeared | Withdrawn


class Browser:
    """An async context manager and iterator of what appears and withdraws on some interfaces.

    At most `MAX_INSTANCES` are followed, whatever a hostile LAN sends; malformed records are
    logged and otherwise ignored.

    Args:
        hosts: one of our addresses per interface and IP version, see `addresses.multicast_hosts`.
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = list(hosts)
        self._events: asyncio.Queue[Sighted] = asyncio.Queue(_MAX_EVENTS)
        self._seen: dict[str, NodeSighting | None] = {}
        self._resolving: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._zeroconf = AsyncZeroconf(interfaces=self._hosts)
        # Questions ask for multicast answers: where several processes of one machine share the
        # mDNS port, a unicast answer reaches only one of them.
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf,
            SERVICE_TYPE,
            handlers=[self._on_change],
            question_type=DNSQuestionType.QM,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._resolving.values():
            task.cancel()
        try:
            await asyncio.gather(*self._resolving.values(), return_exceptions=True)
        finally:
            await close(self._zeroconf, self._browser)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sighted:
        return await self._events.get()

    def _on_change(
        self,
        zeroconf: Zeroconf,
        service_type: str,
        name: str,
        state_change: ServiceStateChange,
    ) -> None:
        if state_change is ServiceStateChange.Removed:
            self._removed(name)
        elif name in self._seen or len(self._seen) < MAX_INSTANCES:
            self._changed(zeroconf, service_type, name)

    def _removed(self, name: str) -> None:
        sighting = self._seen.pop(name, None)
        others = {other.key for other in self._seen.values() if other is not None}
        if sighting is not None and sighting.key not in others:
            self._put(Withdrawn(key=sighting.key, now_s=time.monotonic()))

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        """Answers usually carry all records; where they do not, the rest is asked for."""
        self._seen.setdefault(name, None)
        info = AsyncServiceInfo(service_type, name)
        if info.load_from_cache(zeroconf):
            self._sighted(name, info)
        elif name not in self._resolving:
            task = asyncio.get_running_loop().create_task(self._resolve(zeroconf, info, name))
            self._resolving[name] = task
            task.add_done_callback(lambda _: self._resolving.pop(name, None))

    async def _resolve(self, zeroconf: Zeroconf, info: AsyncServiceInfo, name: str) -> None:
        if await info.async_request(zeroconf, _RESOLVE_MS) and name in self._seen:
            self._sighted(name, info)

    def _sighted(self, name: str, info: AsyncServiceInfo) -> None:
        try:
            hosts = info.parsed_scoped_addresses()
            sighting = read_sighting(info.properties, hosts, info.port)
        except MalformedRecord as error:
            _log.warning("ignored an mDNS record", instance=name[:80], because=str(error))
            return
        if self._seen.get(name) != sighting:
            self._seen[name] = sighting
            self._put(Appeared(sighting=sighting, now_s=time.monotonic()))

    def _put(self, event: Sighted) -> None:
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            _log.warning("dropped an mDNS event: too many at once", kind=type(event).__name__)
