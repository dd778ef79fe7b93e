"""A gRPC server: where it listens, and the services that every one of ours has."""

from __future__ import annotations

import errno
import socket
from collections.abc import Coroutine, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgepipe.core.profile import Address
from edgepipe.errors import PortInUse, UsageError
from edgepipe.transport.endpoint import SERVER_OPTIONS, Credentials


def create_server() -> grpc.aio.Server:
    """A server that listens nowhere yet. Call it inside the process's one event loop."""
    return grpc.aio.server(options=SERVER_OPTIONS)


def bind(server: grpc.aio.Server, host: str, port: int, credentials: Credentials | None) -> int:
    """Listen at an address and return the port; host "" is every address, port 0 a free one.

    Raises:
        PortInUse: somebody listens there already.
        UsageError: this machine has no such address, or we may not listen on that port.
    """
    check_free(host, port)
    where = str(Address(host=host or "::", port=port))
    try:
        return _listen(server, where if host else _wildcard(port), credentials)
    except RuntimeError:
        raise PortInUse(f"{where} was taken a moment ago: stop what listens there") from None


def _listen(server: grpc.aio.Server, where: str, credentials: Credentials | None) -> int:
    if credentials is None:
        return server.add_insecure_port(where)
    secrets = grpc.ssl_server_credentials(
        [(credentials.private_key, credentials.certificate)],
        root_certificates=credentials.authority,
        require_client_auth=True,
    )
    return server.add_secure_port(where, secrets)


def _wildcard(port: int) -> str:
    return f"[::]:{port}" if socket.has_dualstack_ipv6() else f"0.0.0.0:{port}"


def check_free(host: str, port: int) -> None:
    """Raise unless one can listen there: gRPC itself does not say why it cannot."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except socket.gaierror:
        raise UsageError(f"nobody knows the host {host}: listen on an address") from None
    family, _, _, _, where = found[0]
    with socket.socket(family, socket.SOCK_STREAM) as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind(where)
            attempt.listen()
        except OSError as error:
            raise _why(error, host, port) from None


def _why(error: OSError, host: str, port: int) -> PortInUse | UsageError:
    match error.errno:
        case errno.EADDRINUSE:
            return PortInUse(f"port {port} is in use: stop what listens there, or choose another")
        case errno.EADDRNOTAVAIL:
            return UsageError(f"this machine has no address {host}: listen on one that it has")
        case errno.EACCES:
            return UsageError(f"port {port} is for root only: choose one above 1023")
        case _:
            return UsageError(f"cannot listen on {host or 'any address'} port {port}: {error}")


def add_standard_services(server: grpc.aio.Server, service_names: Sequence[str]) -> None:
    """Health (serving, as a whole and for each service) and reflection."""
    servicer = health.aio.HealthServicer()
    for name in service_names:
        _complete(servicer.set(name, health_pb2.HealthCheckResponse.SERVING))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _complete(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that has nothing to wait for (nobody watches this servicer yet)."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError(coroutine)
