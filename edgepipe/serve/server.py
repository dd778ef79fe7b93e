"""One HTTP server in the coordinator's own event loop, until it is told to stop."""

from __future__ import annotations

import asyncio
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from edgepipe.errors import PortInUse, UsageError
from edgepipe.serve.app import create_app
from edgepipe.serve.backend import Backend
from edgepipe.serve.errors import unavailable

BACKLOG = 1024
GOODBYE_S = 2
"""How long clients may take to read that the server stops."""
KEEP_ALIVE_S = 30


def bind(host: str, port: int) -> socket.socket:
    """A socket that does not listen yet. Raises PortInUse, UsageError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"nobody knows the host {host}: serve on an address of this one") from None
    family, _, _, _, where = found[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(where)
    except OSError as error:
        listener.close()
        raise _why(error, host, port) from None
    return listener


def _why(error: OSError, host: str, port: int) -> PortInUse | UsageError:
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUse(f"port {port} is in use: stop what listens there, or choose another")
        case errno.EADDRNOTAVAIL:
            return UsageError(f"this machine has no address {host}: serve on one that it has")
        case errno.EACCES:
            return UsageError(f"port {port} is for root only: choose one above 1023")
        case _:
            return UsageError(f"cannot serve on {host} port {port}: {error.strerror}")


def address(listener: socket.socket) -> tuple[str, int]:
    """Host and port, as a URL has them."""
    host, port = listener.getsockname()[:2]
    return (f"[{host}]" if ":" in host else host), port


async def serve(
    backend: Backend,
    listener: socket.socket,
    *,
    api_key: str | None,
    on_ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; whoever waits for an answer by then is told so.

    Raises PortInUse where somebody else began to listen on the port meanwhile.
    """
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = address(listener)
        raise _why(error, host, port) from None
    stop = _stop_on_signals()
    config = uvicorn.Config(
        create_app(backend, api_key=api_key),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GOODBYE_S,
        server_header=False,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    patience = asyncio.create_task(backend.keep_patience())
    try:
        on_ready()
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        backend.end(unavailable("The server is stopping."))
        patience.cancel()
        stopping.cancel()
        server.should_exit = True
        await serving


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


class _Server(uvicorn.Server):
    """Leaves signals to us."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
