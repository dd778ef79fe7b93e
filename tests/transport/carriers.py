"""The two ways in which links are connected in tests."""

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
from wire_frames import HELLO

from edgepipe.core.profile import Address
from edgepipe.transport import inproc
from edgepipe.transport.channel import bind, create_server, open_channel
from edgepipe.transport.grpc_link import SERVICE, Welcome, boundary_handler, dial


@asynccontextmanager
async def serving(handlers, credentials=None):
    """A server on loopback, and its address."""
    server = create_server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = Address(host="127.0.0.1", port=bind(server, "127.0.0.1", 0, credentials))
    await server.start()
    try:
        yield address
    finally:
        await server.stop(0)


@asynccontextmanager
async def boundary(hello=HELLO, credentials=None, **welcome):
    """A stage that accepts boundaries: its address, and a queue of the links it got."""
    links = asyncio.Queue(8)

    async def accept(_):
        return Welcome(hello=hello, take=links.put_nowait, **welcome)

    async with serving({"Boundary": boundary_handler(accept)}, credentials) as address:
        yield address, links


@asynccontextmanager
async def over_grpc(window):
    hello = replace(HELLO, credits=window)
    async with boundary(hello) as (address, links), open_channel(address, None) as channel:
        up = await dial(channel, hello, peer="downstream")
        down = await links.get()
        yield up, down
        await up.close()
        await down.close()


@asynccontextmanager
async def in_process(window):
    up, down = inproc.pair(window)
    yield up, down
    await up.close()
    await down.close()


CARRIERS = {"inproc": in_process, "grpc": over_grpc}
