"""What a service manager says of the agent's service, read from its own words."""

from __future__ import annotations

import re
from dataclasses import dataclass

SHOWN = "UnitFileState,ActiveState,MainPID"
"""What to ask `systemctl show` for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """`pid` is the agent's, None while it does not run."""

    enabled: bool = False
    running: bool = False
    pid: int | None = None


def from_systemctl(text: str) -> ServiceState:
    """From `KEY=VALUE` lines of `systemctl show`."""
    values = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    pid = int(values.get("MainPID") or 0)
    return ServiceState(
        enabled=values.get("UnitFileState") == "enabled",
        running=values.get("ActiveState") in {"active", "reloading", "deactivating"},
        pid=pid or None,
    )


def from_launchctl(text: str) -> ServiceState:
    """From `launchctl print`, which says nothing of a service that is not loaded."""
    pid = re.search(r"^\s*pid = (\d+)$", text, re.MULTILINE)
    return ServiceState(
        enabled=bool(text.strip()),
        running=pid is not None,
        pid=int(pid[1]) if pid is not None else None,
    )
