"""One end of a boundary as a process: `accept` prints its port, `dial PORT`; sends one frame."""

import asyncio
import sys

from carriers import boundary
from wire_frames import HELLO, TOKENS

from edgepipe.core.profile import Address
from edgepipe.transport.channel import open_channel
from edgepipe.transport.grpc_link import dial


async def accept():
    async with boundary() as (address, links):
        sys.stdout.write(f"{address.port}\n")
        sys.stdout.flush()
        link = await links.get()
        link.send(TOKENS)
        await link.ended()


async def dial_and_send(port):
    async with open_channel(Address(host="127.0.0.1", port=port), None) as channel:
        link = await dial(channel, HELLO, peer="the other process")
        link.send(TOKENS)
        await link.ended()


if __name__ == "__main__":
    asyncio.run(accept() if sys.argv[1] == "accept" else dial_and_send(int(sys.argv[2])))
