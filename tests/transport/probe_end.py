"""One end of a measurement, as a process of its own.

`far HOST`, `near HOST PORT REPEATS` or `plan HOST PORT`.
"""

import asyncio
import dataclasses
import json
import sys
import time

import grpc

from edgepipe.core.api import API
from edgepipe.core.profile import Address
from edgepipe.transport.channel import bind, create_server, open_channel
from edgepipe.transport.grpc_link import SERVICE
from edgepipe.transport.link import Hello
from edgepipe.transport.link_speed import measure_to_plan
from edgepipe.transport.measure import measure, probe_handler


async def far(host):
    async def accept(hello):
        assert hello.fence == 7

    server = create_server()
    handlers = {"Probe": probe_handler(accept)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = bind(server, host, 0, None)
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


async def near(host, port, repeats):
    hello = Hello(api=API, job="job", epoch=1, fence=7, from_stage=0, credits=2)
    address = Address(host=host, port=port)
    async with open_channel(address, None) as channel:
        speed = await measure(channel, address, hello, peer="far", repeats=repeats)
    sys.stdout.write(json.dumps(dataclasses.asdict(speed)))


async def plan(host, port):
    hello = Hello(api=API, job="job", epoch=1, fence=7, from_stage=0, credits=2)
    async with open_channel(Address(host=host, port=port), None) as channel:
        begin = time.perf_counter()
        speed = await measure_to_plan(channel, hello, peer="far")
        took_s = time.perf_counter() - begin
    sys.stdout.write(json.dumps({**dataclasses.asdict(speed), "took_s": took_s}))


ROLES = {"far": far, "near": near, "plan": plan}

if __name__ == "__main__":
    role, host, *rest = sys.argv[1:]
    asyncio.run(ROLES[role](host, *map(int, rest)))
