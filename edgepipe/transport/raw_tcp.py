"""One raw TCP stream beside gRPC's, as the figure that gRPC is held against.

listener (one connection, a few seconds) ◀── token ── frame_bytes … ──
                                         ── one byte per frame_bytes ──▶
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import socket
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Self

from edgepipe.core.reach import is_loopback
from edgepipe.errors import Unreachable

TOKEN_BYTES = 32
ACCEPT_DEADLINE_S = 5.0
IDLE_DEADLINE_S = 30.0
BUFFER_BYTES = 1 << 20
ACK = b"\x06"


@dataclass(slots=True)
class Listener:
    """Waits for one connection that begins with `token`, and counts what it sends."""

    peer_host: str
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES), repr=False)
    _socket: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        family = socket.AF_INET6 if ":" in self.peer_host else socket.AF_INET
        local = self.peer_host if is_loopback(self.peer_host) else ""
        self._socket = socket.create_server((local, 0), family=family, backlog=1)
        self._socket.setblocking(False)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    async def serve(self, frame_bytes: int) -> None:
        """Acknowledge every `frame_bytes`, until the connection ends or goes silent."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(ACCEPT_DEADLINE_S):
            connection, _ = await loop.sock_accept(self._socket)
        self._socket.close()
        with connection:
            connection.setblocking(False)
            async with asyncio.timeout(ACCEPT_DEADLINE_S):
                token = await _receive_exactly(connection, TOKEN_BYTES)
            if hmac.compare_digest(token, self.token):
                await _acknowledge(connection, frame_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


async def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await asyncio.get_running_loop().sock_recv(connection, size - len(received))
        if not piece:
            break
        received += piece
    return bytes(received)


async def _acknowledge(connection: socket.socket, frame_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    buffer = bytearray(BUFFER_BYTES)
    arrived = 0
    while True:
        async with asyncio.timeout(IDLE_DEADLINE_S):
            size = await loop.sock_recv_into(connection, buffer)
        if not size:
            return
        arrived += size
        while arrived >= frame_bytes:
            arrived -= frame_bytes
            await loop.sock_sendall(connection, ACK)


async def connect(host: str, port: int, token: bytes) -> socket.socket:
    """A connection to a listener. Raises Unreachable."""
    try:
        with ExitStack() as stack:
            connection = stack.enter_context(await asyncio.to_thread(_connect, host, port))
            await asyncio.get_running_loop().sock_sendall(connection, token)
            stack.pop_all()
            return connection
    except OSError as error:
        raise Unreachable(f"no TCP connection to {host} port {port}: {error}") from None


def _connect(host: str, port: int) -> socket.socket:
    """Not on the loop: uvloop's sock_connect loses the zone of a link-local address."""
    connection = socket.create_connection((host, port), ACCEPT_DEADLINE_S)
    connection.setblocking(False)
    return connection


async def send_frame(connection: socket.socket, payload: memoryview) -> None:
    """Send one frame and wait for its acknowledgement. Raises Unreachable if it does not come."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, payload)
    if await loop.sock_recv(connection, len(ACK)) != ACK:
        raise Unreachable("the far end broke the TCP connection off in the middle of a measurement")
