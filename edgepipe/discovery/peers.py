"""Static peers: addresses that a person gave, equal to what mDNS finds."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from edgepipe.core.cluster import NodeSighting
from edgepipe.core.profile import Address
from edgepipe.errors import UsageError

DEFAULT_PORT = 27700
"""Unassigned at IANA, and below the ranges from which systems pick ports for outgoing connections
(Linux: from 32768 on), so that nothing takes it by chance."""

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_BARE_V6_COLONS = 2


def parse_address(text: str, *, what: str, default_port: int | None = None) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT`, or with a default port `HOST` alone, as an Address.

    Args:
        text: what the user wrote.
        what: where it was written, e.g. `--peer`, for the error.
        default_port: used where the port is left out.

    Raises:
        UsageError: it is none of these.
    """
    host, port = _split(text.strip())
    number = default_port if port is None else int(port) if port.isdecimal() else None
    if number is None or number > 65535 or not _is_host(host):
        raise UsageError(f"{what} wants HOST:PORT (an IPv6 HOST in brackets), not '{text[:100]}'.")
    return Address(host=host, port=number)


def _split(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return "", None
        return host, rest[1:] if rest else None
    if text.count(":") >= _BARE_V6_COLONS:
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        is_number = re.fullmatch(r"[\d.]+", host) is not None
        return len(host) <= 253 and not is_number and _HOST_NAME.fullmatch(host) is not None
    return True


def parse_peers(texts: Iterable[str]) -> tuple[Address, ...]:
    """The addresses of `--peer`, each once, in order; EDGEPIPE_PEER has several in one text.

    Raises:
        UsageError: one is not HOST:PORT.
    """
    each = (part.strip() for text in texts for part in text.split(","))
    found = [parse_address(text, what="--peer", default_port=DEFAULT_PORT) for text in each]
    for address in found:
        if address.port == 0:
            raise UsageError(f"--peer {address} has no port: give the one that its agent printed.")
    return tuple(dict.fromkeys(found))


def static_sightings(peers: Iterable[Address]) -> tuple[NodeSighting, ...]:
    """What is known of static peers before they describe themselves."""
    return tuple(NodeSighting(addresses=(peer,)) for peer in peers)
