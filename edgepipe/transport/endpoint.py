"""How every connection is opened: credentials and channel options, in one place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

import grpc

from edgepipe.core.profile import Address

MAX_MESSAGE_BYTES = 4 << 20
KEEPALIVE_MS = 10_000
KEEPALIVE_TIMEOUT_MS = 5_000

# grpc.http2.bdp_probe stays on: without it a 300 Mbit/s link drops to a third.
_BOTH = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
)
CHANNEL_OPTIONS = (
    *_BOTH,
    ("grpc.enable_http_proxy", 0),  # a LAN peer is never behind the web proxy
    ("grpc.use_local_subchannel_pool", 1),  # a channel is a connection of its own
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
SERVER_OPTIONS = (
    *_BOTH,
    ("grpc.so_reuseport", 0),  # on, a second server shares the port instead of being refused
    # Below the client's keepalive: a server drops clients that ping more often.
    ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What mTLS needs, PEM: the cluster's authority, and this node's certificate and key."""

    authority: bytes
    certificate: bytes
    private_key: bytes


def target(address: Address) -> str:
    """The address as gRPC's URI; a zone (`fe80::1%eth0`) is kept."""
    bare = address.host.partition("%")[0]
    try:
        version = ipaddress.ip_address(bare).version
    except ValueError:
        return f"dns:///{address}"
    return f"ipv{version}:{address}".replace("%", "%25")


def open_channel(
    address: Address, credentials: Credentials | None, *, node: str | None = None
) -> grpc.aio.Channel:
    """A channel to one address: plain text without credentials.

    With them, the certificate must name `node` where it is given, and the host otherwise.
    """
    if credentials is None:
        return grpc.aio.insecure_channel(target(address), options=CHANNEL_OPTIONS)
    secrets = grpc.ssl_channel_credentials(
        credentials.authority, credentials.private_key, credentials.certificate
    )
    named = () if node is None else (("grpc.ssl_target_name_override", node),)
    return grpc.aio.secure_channel(target(address), secrets, options=(*CHANNEL_OPTIONS, *named))
