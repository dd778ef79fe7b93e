"""Says over mDNS that this agent is here."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from edgepipe.discovery.closing import close
from edgepipe.discovery.record import SERVICE_TYPE, Advertisement


class Advertiser:
    """One advertisement, from `start` to `withdraw`.

    Args:
        hosts: one of our addresses per interface and IP version to speak on, see
            `addresses.multicast_hosts`.

    Raises:
        OSError: mDNS cannot be spoken on this machine (its port is held by an exclusive socket).
    """

    def __init__(self, hosts: Sequence[str]) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=list(hosts))
        self._info: AsyncServiceInfo | None = None
        self._announcements: Awaitable[object] | None = None

    async def start(self, advertisement: Advertisement) -> None:
        """Announce it; returns as soon as the first announcement is out.

        The name holds a random id, so it is not probed for first (RFC 6762 §8.1), which would
        take 1.2 s; two repeats follow in the background.
        """
        self._info = _service_info(advertisement)
        self._announcements = await self._zeroconf.async_register_service(
            self._info, cooperating_responders=True
        )

    async def update(self, advertisement: Advertisement, hosts: Sequence[str]) -> None:
        """Announce what changed: the advertisement, or the interfaces to speak on."""
        await self._settle()
        await self._zeroconf.async_update_interfaces(interfaces=list(hosts))
        self._info = _service_info(advertisement)
        self._announcements = await self._zeroconf.async_update_service(self._info)

    async def withdraw(self) -> None:
        """Say goodbye, which browsers see at once, and close the sockets; takes 0.3 s."""
        try:
            await self._settle()
        finally:
            await close(self._zeroconf)

    async def _settle(self) -> None:
        if self._announcements is not None:
            await self._announcements
            self._announcements = None


def _service_info(advertisement: Advertisement) -> AsyncServiceInfo:
    addresses = advertisement.addresses
    return AsyncServiceInfo(
        SERVICE_TYPE,
        advertisement.instance,
        port=addresses[0].port,
        properties=advertisement.txt(),
        server=advertisement.server,
        parsed_addresses=[address.host.partition("%")[0] for address in addresses],
    )
