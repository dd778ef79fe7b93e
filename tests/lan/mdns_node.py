"""A machine that speaks mDNS, for the tests: `node` advertises and watches, `browse` looks once.

mdns_node.py node NAME CLUSTER             one JSON line per event, until SIGTERM
mdns_node.py browse CLUSTER NUM [PEER …]   one JSON line: what was found, and who was reached
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time

from edgepipe.core.cluster import Appeared, NodeSighting
from edgepipe.core.profile import Address, NodeId
from edgepipe.discovery.addresses import advertised, multicast_hosts, read_interfaces
from edgepipe.discovery.advertiser import Advertiser
from edgepipe.discovery.browse import browse
from edgepipe.discovery.browser import Browser
from edgepipe.discovery.peers import parse_peers
from edgepipe.discovery.record import Advertisement
from edgepipe.transport.loop import run_loop

PORT = 27700


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)  # noqa: T201


async def node(name: str, cluster: str) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()

    server = await asyncio.start_server(greet, None, PORT)
    interfaces = read_interfaces()
    hosts = multicast_hosts(interfaces)
    advertiser = Advertiser(hosts)
    await advertiser.start(
        Advertisement(
            id=NodeId(secrets.token_hex(8)),
            name=name,
            version="0.1.0",
            cluster=cluster,
            api=1,
            devices="cpu",
            addresses=advertised(interfaces, Address(host="", port=PORT)),
        )
    )
    say(event="ready")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    watching = asyncio.create_task(watch(hosts))
    await stop.wait()
    watching.cancel()
    await advertiser.withdraw()
    server.close()


async def watch(hosts: tuple[str, ...]) -> None:
    names: dict[str, str] = {}
    async with Browser(hosts) as browser:
        async for event in browser:
            if isinstance(event, Appeared):
                names[event.sighting.key] = event.sighting.name
                found = [address.host for address in event.sighting.addresses]
                say(event="appeared", name=event.sighting.name, hosts=found)
            else:
                say(event="withdrawn", name=names[event.key])


async def look(cluster: str, num_wanted: int, peers: list[str]) -> None:
    started = time.monotonic()
    found = await browse(
        cluster=cluster,
        hosts=multicast_hosts(read_interfaces()),
        peers=parse_peers(peers),
        enough=lambda ours: len(ours) >= num_wanted,
    )
    elapsed_s = time.monotonic() - started
    reached = [await greeting(address) for sighting in found for address in sighting.addresses]
    say(found=[_shown(sighting) for sighting in found], reached=reached, elapsed_s=elapsed_s)


def _shown(sighting: NodeSighting) -> str:
    return sighting.name or str(sighting.addresses[0])


async def greeting(address: Address) -> str:
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(address.host, address.port)
            text = (await reader.read()).decode()
            writer.close()
    except OSError as error:
        return f"{address}: {error}"
    return text


if __name__ == "__main__":
    mode, *words = sys.argv[1:]
    if mode == "node":
        run_loop(node(*words))
    else:
        run_loop(look(words[0], int(words[1]), words[2:]))
