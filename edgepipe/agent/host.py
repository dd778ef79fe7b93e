"""Which machine this is: equal for agents that reach each other by loopback."""

from __future__ import annotations

import hashlib
import platform
import socket
import uuid
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NETWORK = Path("/proc/self/ns/net")


def host_id() -> str:
    """16 hex digits. On Linux the running kernel and our network namespace, else the machine.

    Not /etc/machine-id: containers that share the host's network each have their own, or none.
    Hashed, since a boot id is nobody else's business.
    """
    if platform.system() == "Linux":
        parts = [_BOOT_ID.read_text().strip(), str(_NETWORK.stat().st_ino)]
    else:
        parts = _machine()
    return _hashed(parts)


def machine_id() -> str:
    """16 hex digits, equal for all that share the cores of this machine: containers too."""
    if platform.system() == "Linux":
        return _hashed([_BOOT_ID.read_text().strip()])
    return _hashed(_machine())


def _machine() -> list[str]:
    return [socket.gethostname(), str(uuid.getnode())]


def _hashed(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
