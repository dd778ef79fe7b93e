from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from edgepipe.core.profile import Address
from edgepipe.errors import PortInUse
from edgepipe.obs import scrape
from edgepipe.obs.scrape import MAX_CONNECTIONS, MAX_HEAD_BYTES, scraping

FIGURES = b"edgepipe_worker_up 1\n"
DEADLINE_S = 20
LOOPBACK = Address(host="127.0.0.1", port=0)
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

Ask = Callable[[bytes], Awaitable[bytes]]


async def figures() -> bytes:
    return FIGURES


async def sent(port: int, request: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    async with scraping(LOOPBACK, figures) as port:
        yield lambda request: sent(port, request)


async def test_the_figures_are_read(ask: Ask) -> None:
    head, _, body = (await ask(REQUEST)).partition(b"\r\n\r\n")
    assert body == FIGURES
    status, *headers = head.decode().splitlines()
    assert status == "HTTP/1.1 200 OK"
    assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in headers
    assert f"Content-Length: {len(FIGURES)}" in headers


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /metrics?x=1 HTTP/1.1", 200),
        ("GET / HTTP/1.1", 404),
        ("GET /metrics/ HTTP/1.1", 404),
        ("nonsense", 404),
        ("POST /metrics HTTP/1.1", 405),
    ],
)
async def test_nothing_else_is(ask: Ask, request_line: str, status: int) -> None:
    answer = await ask(f"{request_line}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert (status == 200) == answer.endswith(FIGURES)


async def test_a_head_without_end_is_hung_up_on(ask: Ask) -> None:
    assert await ask(b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 2 * MAX_HEAD_BYTES) == b""


async def test_who_says_nothing_is_hung_up_on(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "DEADLINE_S", 0.05)
    assert await ask(b"GET /met") == b""


async def test_connections_are_bounded_and_come_free_again() -> None:
    released = asyncio.Event()

    async def slow() -> bytes:
        await released.wait()
        return FIGURES

    async with scraping(LOOPBACK, slow) as port, asyncio.timeout(DEADLINE_S):
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(MAX_CONNECTIONS)]
        for _, writer in streams:
            writer.write(REQUEST)
        assert await sent(port, REQUEST) == b""
        released.set()
        for reader, writer in streams:
            assert (await reader.read()).endswith(FIGURES)
            writer.close()
        assert (await sent(port, REQUEST)).endswith(FIGURES)


async def test_every_address_is_listened_on_by_one_port() -> None:
    async with scraping(Address(host="", port=0), figures) as port:
        assert (await sent(port, REQUEST)).endswith(FIGURES)


async def test_a_taken_port_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"port {port} is in use"):
            async with scraping(Address(host="127.0.0.1", port=port), figures):
                pass
