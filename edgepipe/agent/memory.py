"""How much memory and how many cores this machine has for a worker."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgepipe.agent.cgroup import cpu_quota, memory_limits

HOST_POOL = "host"
"""The pool of everything that lives in the machine's own memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNow:
    """Memory in bytes; `free_bytes` can be had without pushing others out."""

    total_bytes: int
    free_bytes: int


def host_memory(root: Path = Path("/")) -> MemoryNow:
    """The machine's own memory, within the limits of the container that we are in."""
    memory = psutil.virtual_memory()
    limits = memory_limits(root)
    return MemoryNow(
        total_bytes=min([memory.total, *(limit.limit_bytes for limit in limits)]),
        free_bytes=max(0, min([memory.available, *(limit.free_bytes for limit in limits)])),
    )


def num_cores(root: Path = Path("/")) -> int:
    """Physical cores that we may use: arithmetic gains nothing from a core's second thread.

    Within the CPU affinity and the container's quota, rounded down so that it is never throttled.
    """
    physical = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    quota = cpu_quota(root)
    bounds = [physical, _num_allowed(), *([] if quota is None else [int(quota)])]
    return max(1, min(bounds))


def _num_allowed() -> int:
    """Logical CPUs of the affinity mask; only Linux has one that we can read."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
