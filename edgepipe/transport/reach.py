"""Connects to every address of a node at once and keeps the best connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import grpc

from edgepipe.core.profile import Address
from edgepipe.core.reach import Reached, is_loopback, rank
from edgepipe.errors import EdgepipeError, Unreachable
from edgepipe.transport.endpoint import Credentials, open_channel
from edgepipe.transport.link import Hello
from edgepipe.transport.measure import burst

State = grpc.ChannelConnectivity
GRACE_S = 0.25
"""How long the others may take once one address has answered."""
REFUSED_S = 1.0
"""An address that refuses connections for so long has nobody listening."""
BURST_DEADLINE_S = 2.0


async def choose_address(
    addresses: Sequence[Address],
    *,
    deadline_s: float,
    credentials: Credentials | None,
    node: str | None = None,
    probe: Hello | None = None,
) -> tuple[Address, grpc.aio.Channel]:
    """The fastest of a node's addresses that can be reached, and an open channel to it.

    Loopback addresses belong in `addresses` only for a node on this machine. With `probe`, its
    hello, a worker's `Stage.Probe` times a short burst where several addresses are reachable.

    Raises:
        Unreachable: none answered; the message lists them.
    """
    channels = {
        address: open_channel(address, credentials, node=node)
        for address in dict.fromkeys(addresses)
    }
    chosen: Address | None = None
    try:
        reached = await _reach(channels, deadline_s)
        if not reached:
            tried = ", ".join(str(address) for address in channels) or "no address is known"
            raise Unreachable(
                f"nothing answers there (tried {tried}): is `edgepipe agent` running?"
            )
        if probe is not None and len(reached) > 1 and not _is_local(reached):
            reached = [await _measured(one, channels[one.address], probe) for one in reached]
        chosen = rank(reached)[0].address
    finally:
        for address, channel in channels.items():
            if address != chosen:
                await channel.close()
    return chosen, channels[chosen]


def _is_local(reached: Sequence[Reached]) -> bool:
    return any(is_loopback(one.address.host) for one in reached)


async def _reach(channels: dict[Address, grpc.aio.Channel], deadline_s: float) -> list[Reached]:
    """Those that answer until shortly after the first did."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    pending = {asyncio.create_task(_connect(*each)) for each in channels.items()}
    reached: list[Reached] = []
    while pending and (left := deadline - loop.time()) > 0:
        done, pending = await asyncio.wait(
            pending, timeout=left, return_when=asyncio.FIRST_COMPLETED
        )
        found = [one for task in done if (one := task.result()) is not None]
        if found and not reached:
            deadline = min(deadline, loop.time() + GRACE_S)
        reached += found
        if _is_local(reached):
            break
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    return reached


async def _connect(address: Address, channel: grpc.aio.Channel) -> Reached | None:
    """Wait until the channel is ready; None once it has been refused for a while."""
    start = time.perf_counter()
    while (state := channel.get_state(try_to_connect=True)) is not State.READY:
        try:
            # From its first failure on, a channel stays in that state until it is ready.
            async with asyncio.timeout(REFUSED_S if state is State.TRANSIENT_FAILURE else None):
                await channel.wait_for_state_change(state)
        except TimeoutError:
            return None
    return Reached(address=address, round_trip_s=time.perf_counter() - start)


async def _measured(one: Reached, channel: grpc.aio.Channel, probe: Hello) -> Reached:
    try:
        async with asyncio.timeout(BURST_DEADLINE_S):
            speed = await burst(channel, probe, peer=str(one.address))
    except (TimeoutError, EdgepipeError):  # it answers, which is more than nothing
        return one
    return replace(one, measured_bytes_per_s=speed)
