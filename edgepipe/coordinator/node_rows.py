"""The members of a cluster as a person or a program is told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from edgepipe.coordinator.known import KnownLink, KnownSpeed
from edgepipe.coordinator.nodes import Roster
from edgepipe.core.profile import Address, DeviceProfile, NodeProfile, NodeState
from edgepipe.core.record import to_json

Speeds = Mapping[tuple[str, str], Sequence[KnownSpeed]]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRow:
    """A node to show. `profile` is None until it has described itself; `reason` says why not."""

    profile: NodeProfile | None
    name: str
    addresses: tuple[Address, ...]
    state: NodeState
    reason: str = ""
    speeds: Mapping[str, Sequence[KnownSpeed]] = field(default_factory=dict)


def node_rows(roster: Roster, speeds: Speeds = MappingProxyType({})) -> list[NodeRow]:
    """The members of a cluster as the tables show them; `speeds` by node and device."""
    members = sorted(roster.state.members.values(), key=lambda member: member.name)
    return [
        NodeRow(
            profile=member.profile,
            name=member.name,
            addresses=(
                member.profile.addresses
                if member.profile is not None
                else member.sighting.addresses
            ),
            state=member.state,
            reason=member.reason,
            speeds={device: each for (node, device), each in speeds.items() if node == member.name},
        )
        for member in members
    ]


def nodes_json(rows: Sequence[NodeRow], links: Sequence[KnownLink] = ()) -> dict[str, Any]:
    """The document of `edgepipe nodes --json`."""
    return {
        "nodes": [_node_json(row) for row in rows],
        "links": [to_json(link) for link in links],
    }


def _node_json(row: NodeRow) -> dict[str, Any]:
    profile = row.profile
    document: dict[str, Any] = {
        "id": profile.id if profile else None,
        "name": row.name,
        "addresses": [str(address) for address in row.addresses],
        "version": profile.version if profile else None,
        "state": row.state.value,
        "devices": [_device_json(row, device) for device in profile.devices] if profile else [],
    }
    return {**document, "reason": row.reason} if row.reason else document


def _device_json(row: NodeRow, device: DeviceProfile) -> dict[str, Any]:
    document: dict[str, Any] = to_json(device)
    document["speeds"] = [to_json(speed) for speed in row.speeds.get(device.id, ())]
    return {name: value for name, value in document.items() if name != "lease" or value is not None}
