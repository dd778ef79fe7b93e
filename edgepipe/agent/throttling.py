"""A container's CPU quota below the threads that compute.

    quota 0.25      ▇▇▇·········▇▇▇·········▇▇▇·········
    a short call     ─┤ full speed, or  ├──────────┤ stopped halfway

Linux lets a container run at full speed until its share of a period (0.1 s) is used up, and then
stops it. So no call by itself says how long calls take: on average that is their CPU time over the
quota.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from edgepipe.agent.cgroup import cpu_quota


def throttling_quota(num_threads: int, root: Path = Path("/")) -> float | None:
    """The quota in CPUs, None where so many threads cannot exceed it."""
    quota = cpu_quota(root)
    return quota if quota is not None and quota < num_threads else None


def throttled_s(call: Callable[[], object], quota: float) -> float:
    """The seconds that a call takes on average, again and again under a quota in CPUs."""
    begin = time.process_time()
    call()
    return (time.process_time() - begin) / quota
