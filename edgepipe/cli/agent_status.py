"""What `edgepipe agent status` knows: the service manager's word, and the agent's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from rich.console import Group, RenderableType
from rich.table import Table

from edgepipe.agent.configuration import load_settings
from edgepipe.agent.service import here
from edgepipe.agent.service.place import UNIT, Manager, Place, Scope
from edgepipe.agent.service.state import ServiceState
from edgepipe.agent.settings import AgentSettings
from edgepipe.cli.tables import nodes_table
from edgepipe.coordinator.node_rows import NodeRow, node_rows, nodes_json
from edgepipe.coordinator.nodes import Search, find_nodes
from edgepipe.core.profile import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`managed`: whether the service manager runs. `row` is the agent's answer, if it gave one."""

    place: Place
    managed: bool
    service: ServiceState
    row: NodeRow | None

    @classmethod
    async def of(cls, place: Place) -> Self:
        """Ask both. Raises UsageError for settings that are wrong."""
        managed = here.is_running(place.manager, place.scope)
        config = place.config if place.config.exists() else None
        return cls(
            place=place,
            managed=managed,
            service=here.state(place) if managed else ServiceState(),
            row=await _answer(load_settings({}, config)),
        )

    @property
    def is_installed(self) -> bool:
        """Whether there is a unit."""
        return self.place.unit.exists()

    @property
    def is_running(self) -> bool:
        """Whether there is an agent, whoever started it."""
        return self.service.running or self.row is not None

    @property
    def advice(self) -> str:
        """What to do, in one sentence; empty where all is well."""
        if self.row is not None:
            return ""
        if not self.managed:
            return here.without(self.place.manager, self.place.scope)
        if not self.is_installed:
            return "The agent is not installed: run `edgepipe agent install`."
        if self.service.running:
            return "The agent runs and does not answer where its settings say that it listens."
        return f"The agent does not run: see why with `{self._log}`."

    @property
    def _log(self) -> str:
        if self.place.manager is Manager.LAUNCHD:
            return f"tail {self.place.home}/agent.log"
        whose = "--user " if self.place.scope is Scope.USER else ""
        return f"journalctl {whose}--unit {UNIT}"


async def _answer(settings: AgentSettings) -> NodeRow | None:
    """What the agent of these settings says of itself, where its port is known."""
    if settings.listen.port == 0:
        return None
    address = Address(host=settings.listen.host or "127.0.0.1", port=settings.listen.port)
    async with find_nodes(Search(cluster=settings.cluster, peers=(address,))) as roster:
        (row,) = node_rows(roster)
    return row if row.profile is not None else None


def status_json(status: Status) -> dict[str, Any]:
    """The document of `--json`. `node` is as in `edgepipe nodes`, null while no agent answers."""
    return {
        "manager": status.place.manager.value if status.managed else None,
        "scope": status.place.scope.value,
        "unit": str(status.place.unit),
        "config": str(status.place.config),
        "home": str(status.place.home),
        "installed": status.is_installed,
        "enabled": status.service.enabled,
        "running": status.is_running,
        "pid": status.service.pid,
        "node": nodes_json([status.row])["nodes"][0] if status.row is not None else None,
        "advice": status.advice,
    }


def status_table(status: Status) -> RenderableType:
    """The service, and below it the node as `edgepipe nodes` shows it."""
    table = Table.grid(padding=(0, 2))
    manager = status.place.manager if status.managed else f"no {status.place.manager} here"
    pid = f", process {status.service.pid}" if status.service.pid else ""
    rows = {
        "service": f"{manager}, {status.place.scope}",
        "installed": str(status.place.unit) if status.is_installed else "no",
        "enabled": "yes" if status.service.enabled else "no",
        "running": f"yes{pid}" if status.is_running else "no",
        "settings": str(status.place.config) if status.place.config.exists() else "defaults",
    }
    for label, value in rows.items():
        table.add_row(label, value)
    shown = [nodes_table([status.row])] if status.row is not None else []
    return Group(table, *shown, *([status.advice] if status.advice else []))
