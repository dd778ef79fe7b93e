"""`GET /metrics` and nothing else: each request is answered, and its connection closed.

Whoever scrapes is not trusted: heads, connections and waits are bounded.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from edgepipe.core.profile import Address
from edgepipe.errors import PortInUse
from edgepipe.transport.server import check_free

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MAX_HEAD_BYTES = 8 << 10
MAX_CONNECTIONS = 16
DEADLINE_S = 10.0
"""Of a request, from its connection to its answer's end."""

Text = Callable[[], Awaitable[bytes]]


@asynccontextmanager
async def scraping(listen: Address, text: Text) -> AsyncIterator[int]:
    """Answer with `text` meanwhile; gives the port. An empty host means every address.

    Raises:
        PortInUse: somebody listens there.
        UsageError: it is no address of this machine, or not ours to listen on.
    """
    answering: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(answering) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(_answer(reader, writer, text))
        answering.add(task)
        task.add_done_callback(answering.discard)

    listener = _listener(listen)
    server = await asyncio.start_server(accept, sock=listener, limit=MAX_HEAD_BYTES)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        for task in answering:
            task.cancel()
        await asyncio.gather(*answering, return_exceptions=True)


def _listener(listen: Address) -> socket.socket:
    check_free(listen.host, listen.port)
    dual = not listen.host and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual or ":" in listen.host else socket.AF_INET
    where = (listen.host, listen.port)
    try:
        return socket.create_server(where, family=family, dualstack_ipv6=dual)
    except OSError:
        raise PortInUse(f"{listen} was taken a moment ago: stop what listens there") from None


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: Text) -> None:
    try:
        async with asyncio.timeout(DEADLINE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(await _response(head, text))
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        pass  # nothing is owed to whoever is slow, gone, or says too much
    finally:
        writer.transport.abort()


async def _response(head: bytes, text: Text) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path != b"/metrics":
        return _message(HTTPStatus.NOT_FOUND, b"There is /metrics here.\n")
    if method != b"GET":
        return _message(HTTPStatus.METHOD_NOT_ALLOWED, b"GET it.\n", "Allow: GET\r\n")
    return _message(HTTPStatus.OK, await text())


def _message(status: HTTPStatus, body: bytes, more: str = "") -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {CONTENT_TYPE}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{more}Connection: close\r\n\r\n"
    )
    return head.encode() + body
