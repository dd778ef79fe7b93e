"""Connections: open one, serve one, and choose the best of several addresses."""

from edgepipe.transport.endpoint import Credentials, open_channel, target
from edgepipe.transport.reach import choose_address
from edgepipe.transport.server import add_standard_services, bind, create_server

__all__ = [
    "Credentials",
    "add_standard_services",
    "bind",
    "choose_address",
    "create_server",
    "open_channel",
    "target",
]
