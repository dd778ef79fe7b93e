"""Sockets that stay open keep uvloop, and with it the command, from ever ending."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from edgepipe.discovery.browse import browse
from edgepipe.discovery.browser import Browser

HOSTS = ["127.0.0.1"]
DEADLINE_S = 10


def open_sockets() -> int:
    return len(psutil.Process().net_connections(kind="udp"))


@pytest.mark.parametrize("turns", range(5))
async def test_a_search_that_is_cancelled_at_its_beginning_leaves_no_socket(turns: int) -> None:
    before = open_sockets()
    searching = asyncio.create_task(browse(cluster="none", hosts=HOSTS))
    for _ in range(turns):  # of the loop: zeroconf opens its sockets in the first of them
        await asyncio.sleep(0)
    searching.cancel()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await searching
    assert open_sockets() == before


async def test_being_cancelled_while_it_closes_does_not_cut_that_short() -> None:
    before = open_sockets()
    browser = Browser(HOSTS)
    await browser.__aenter__()
    closing = asyncio.create_task(browser.__aexit__(None, None, None))
    await asyncio.sleep(0)
    closing.cancel()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(asyncio.CancelledError):
            await closing
    assert open_sockets() == before
