"""What an agent says of its machine: devices, addresses, memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

NodeId = NewType("NodeId", str)
DeviceId = NewType("DeviceId", str)
"""`cpu`, `cuda:0` or `mps`, unique on its node."""


class DeviceKind(StrEnum):
    """What runs the arithmetic. `cuda` covers ROCm builds of torch too."""

    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class NodeState(StrEnum):
    """mDNS says that a node has appeared; health says that it is alive."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    LOST = "lost"
    UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One way to reach a node. `speed_bytes_per_s` is the interface's own word, 0 if unknown."""

    host: str
    port: int
    interface: str = ""
    speed_bytes_per_s: int = 0

    def __str__(self) -> str:
        """`host:port`, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseView:
    """Who holds a device, as its agent tells it."""

    job: str
    holder: str
    fence: int
    expires_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One device of a node, served by one worker process on `port`.

    `memory_limit_bytes` is what edgepipe may use of it; `pool` names the memory it shares with
    other devices of the node; `baseline_bytes` is what the idle worker holds already.
    `libraries` names those that compute, with their versions.
    """

    id: DeviceId
    kind: DeviceKind
    name: str
    pool: str
    memory_bytes: int
    memory_free_bytes: int
    memory_limit_bytes: int
    baseline_bytes: int
    port: int
    num_threads: int
    slowdown: float = 1.0
    engines: tuple[str, ...] = ("torch",)
    lease: LeaseView | None = None
    libraries: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProfile:
    """One machine. `host_id` is equal for agents that share a machine (loopback reaches them).

    `machine_id` is equal for hosts that share the cores of one, as containers do.
    """

    id: NodeId
    name: str
    version: str
    api: int
    cluster: str
    host_id: str
    addresses: tuple[Address, ...]
    devices: tuple[DeviceProfile, ...]
    machine_id: str = ""
