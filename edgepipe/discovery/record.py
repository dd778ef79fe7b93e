"""The advertisement: one DNS-SD instance per agent, `_edgepipe._tcp.local.`.

    instance   <name>-<id>           SRV   <id>.local., the supervisor's port
    TXT        id, name, version, cluster, api, devices      A, AAAA   addresses

Anyone on the LAN can send such a record, so what is read is bounded and checked, and only says
where to ask.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgepipe.core.cluster import NodeSighting
from edgepipe.core.profile import Address, NodeId
from edgepipe.discovery.addresses import MAX_ADDRESSES

SERVICE_TYPE = "_edgepipe._tcp.local."
MAX_STRING_BYTES = 255
MAX_TXT_BYTES = 1024
_NAME_IN_LABEL = 46
_ID = re.compile(r"[0-9a-f]{16,32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_API = re.compile(r"[0-9]{1,6}")


class MalformedRecord(ValueError):
    """A record that is not an edgepipe agent's; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement:
    """What an agent says of itself over mDNS. `devices` is a hint for people, cut to fit."""

    id: NodeId
    name: str
    version: str
    cluster: str
    api: int
    devices: str
    addresses: tuple[Address, ...]

    @property
    def instance(self) -> str:
        """The instance's full name: readable, and unique by the random id in it."""
        return f"{self.name[:_NAME_IN_LABEL]}-{self.id[:16]}.{SERVICE_TYPE}"

    @property
    def server(self) -> str:
        """The host name that the address records hang on; nobody needs to resolve it."""
        return f"{self.id}.local."

    def txt(self) -> dict[str, str]:
        """The TXT record's strings, at most 255 bytes each and 1 KB in all."""
        values = {
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "cluster": self.cluster,
            "api": str(self.api),
            "devices": self.devices,
        }
        return {key: _cut(value, MAX_STRING_BYTES - len(key) - 1) for key, value in values.items()}


def _cut(text: str, max_bytes: int) -> str:
    return text.encode()[:max_bytes].decode(errors="ignore")


def read_sighting(
    properties: Mapping[bytes, bytes | None], hosts: Sequence[str], port: int | None
) -> NodeSighting:
    """What a received record claims.

    Args:
        properties: the TXT record.
        hosts: the IP addresses of the A and AAAA records, link-local ones with a zone of ours.
        port: of the SRV record.

    Raises:
        MalformedRecord: it lacks something, or breaks a bound.
    """
    num_bytes = sum(len(key) + len(value or b"") + 2 for key, value in properties.items())
    if num_bytes > MAX_TXT_BYTES:
        raise MalformedRecord(f"its TXT record has {num_bytes} bytes")
    return NodeSighting(
        id=NodeId(_matching(properties, "id", _ID)),
        name=_matching(properties, "name", _NAME),
        cluster=_matching(properties, "cluster", _NAME),
        api=int(_matching(properties, "api", _API)),
        version=_printable(properties, "version"),
        devices=_printable(properties, "devices"),
        addresses=_addresses(hosts, port),
    )


def _text(properties: Mapping[bytes, bytes | None], key: str) -> str:
    try:
        return (properties.get(key.encode()) or b"").decode()
    except UnicodeDecodeError:
        raise MalformedRecord(f"its '{key}' is not UTF-8") from None


def _matching(properties: Mapping[bytes, bytes | None], key: str, pattern: re.Pattern[str]) -> str:
    text = _text(properties, key)
    if pattern.fullmatch(text) is None:
        raise MalformedRecord(f"its '{key}' is {text[:40]!r}")
    return text


def _printable(properties: Mapping[bytes, bytes | None], key: str) -> str:
    text = _text(properties, key)
    if not text.isprintable():
        raise MalformedRecord(f"its '{key}' is {text[:40]!r}")
    return text


def _addresses(hosts: Sequence[str], port: int | None) -> tuple[Address, ...]:
    if port is None or not 0 < port < 65536:
        raise MalformedRecord(f"its port is {port}")
    usable = tuple(Address(host=host, port=port) for host in hosts if _is_dialable(host))
    if not usable:
        raise MalformedRecord("it has no usable address")
    return usable[:MAX_ADDRESSES]


def _is_dialable(host: str) -> bool:
    address = ipaddress.ip_address(host)
    if address.is_unspecified or address.is_multicast:
        return False
    return not (address.version == 6 and address.is_link_local and "%" not in host)
