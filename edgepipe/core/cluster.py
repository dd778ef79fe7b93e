"""Who is in the cluster: a pure fold of events into members.

mDNS and static peers say that a node has *appeared*; only an answer says that it is *alive*.

    Appeared ─▶ suspect ──Described──▶ alive ──2 s silent──▶ suspect ──6 s silent──▶ lost
                   │                     ▲ │ ConnectionClosed ─▶ suspect ──1 s──▶ lost
                   └─Refused─▶ unusable ─┘ └─ another cluster or API, or leased ─▶ unusable

A member is keyed by its node id, or by its address while only a static peer's address is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NewType, assert_never

from edgepipe.core.profile import Address, DeviceProfile, NodeId, NodeProfile, NodeState

MemberKey = NewType("MemberKey", str)
"""A node id, or `host:port` of a static peer that has not described itself yet."""

SUSPECT_AFTER_S = 2.0
LOST_AFTER_S = 6.0
REOPEN_WITHIN_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSighting:
    """What discovery says of a node; hints, never trusted. A static peer has only addresses."""

    addresses: tuple[Address, ...]
    id: NodeId | None = None
    name: str = ""
    cluster: str = ""
    api: int = 0
    version: str = ""
    devices: str = ""

    @property
    def key(self) -> MemberKey:
        """The node's id, else its first address."""
        return MemberKey(self.id or str(self.addresses[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Appeared:
    """Discovery sees the node, or sees it changed."""

    sighting: NodeSighting
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrawn:
    """The node took back its advertisement."""

    key: MemberKey
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """The node that was dialled as `key` answered with its profile."""

    key: MemberKey
    profile: NodeProfile
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The node cannot be used, e.g. its port is closed."""

    key: MemberKey
    reason: str
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The node answered a health check."""

    key: MemberKey
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed:
    """The connection to the node is gone; a Heartbeat or Described says that it is back."""

    key: MemberKey
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passed."""

    now_s: float


Event = Appeared | Withdrawn | Described | Refused | Heartbeat | ConnectionClosed | Tick


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One node. `reason` says why it is not alive; `profile` is its last own word."""

    sighting: NodeSighting
    state: NodeState
    heard_s: float
    reason: str = ""
    profile: NodeProfile | None = None
    closed_s: float | None = None

    @property
    def name(self) -> str:
        """The name to show: the node's own word before the advertisement's."""
        if self.profile is not None:
            return self.profile.name
        return self.sighting.name or str(self.sighting.addresses[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterState:
    """The members, seen by a coordinator of `cluster` that speaks `api`.

    `job` is the coordinator's own: a device that it holds does not count as leased away.
    """

    cluster: str
    api: int
    job: str = ""
    members: Mapping[MemberKey, Member] = field(default_factory=dict)

    @property
    def alive(self) -> tuple[Member, ...]:
        """The usable members, by name."""
        usable = (m for m in self.members.values() if m.state is NodeState.ALIVE)
        return tuple(sorted(usable, key=lambda member: member.name))


def apply(event: Event, state: ClusterState) -> ClusterState:
    """The state after `event`; an event about an unknown member changes nothing."""
    match event:
        case Appeared():
            return _appeared(event, state)
        case Described():
            return _described(event, state)
        case Tick(now_s=now_s):
            aged = {key: _aged(member, now_s) for key, member in state.members.items()}
            return replace(state, members=aged)
        case Withdrawn() | Refused() | Heartbeat() | ConnectionClosed():
            member = state.members.get(event.key)
            return state if member is None else _with(state, event.key, _changed(event, member))
        case _:
            assert_never(event)


def _with(state: ClusterState, key: MemberKey, member: Member | None) -> ClusterState:
    members = {k: m for k, m in state.members.items() if k != key}
    return replace(state, members=members if member is None else {**members, key: member})


def _appeared(event: Appeared, state: ClusterState) -> ClusterState:
    sighting = event.sighting
    known = state.members.get(sighting.key)
    if known is not None and known.state in {NodeState.ALIVE, NodeState.SUSPECT}:
        return _with(state, sighting.key, replace(known, sighting=sighting))
    reason = _foreign(state, sighting.cluster, sighting.api) if sighting.id else ""
    member = Member(
        sighting=sighting,
        state=NodeState.UNUSABLE if reason else NodeState.SUSPECT,
        reason=reason or "seen, but it has not answered yet",
        heard_s=event.now_s,
    )
    return _with(state, sighting.key, member)


def _described(event: Described, state: ClusterState) -> ClusterState:
    """A static peer's key becomes its id; a node that answers for another is not used."""
    known = state.members.get(event.key)
    if known is None:
        return state
    sighting, profile = known.sighting, event.profile
    if sighting.id not in {None, profile.id}:
        reason = f"node {profile.id} answers at the addresses that it advertises"
        return _with(state, event.key, replace(known, state=NodeState.UNUSABLE, reason=reason))
    reason = _foreign(state, profile.cluster, profile.api) or _leased_away(profile, state.job)
    by_id = state.members.get(MemberKey(profile.id), known)
    member = Member(
        sighting=replace(by_id.sighting, id=profile.id),
        profile=profile,
        state=NodeState.UNUSABLE if reason else NodeState.ALIVE,
        reason=reason,
        heard_s=event.now_s,
    )
    return _with(_with(state, event.key, None), MemberKey(profile.id), member)


def _changed(
    event: Withdrawn | Refused | Heartbeat | ConnectionClosed, member: Member
) -> Member | None:
    match event:
        case Withdrawn():
            # The record is not trusted: whoever answered stays until it is silent.
            return member if member.state is NodeState.ALIVE else None
        case Refused(reason=reason):
            return replace(member, state=NodeState.UNUSABLE, reason=reason)
        case Heartbeat(now_s=now_s):
            return _heard(member, now_s)
        case ConnectionClosed(now_s=now_s):
            return _closed(member, now_s)
        case _:
            assert_never(event)


def _heard(member: Member, now_s: float) -> Member:
    """A lost node comes back only by describing itself anew: its devices may have changed."""
    if member.profile is None or member.state not in {NodeState.ALIVE, NodeState.SUSPECT}:
        return member
    return replace(member, state=NodeState.ALIVE, reason="", heard_s=now_s, closed_s=None)


def _closed(member: Member, now_s: float) -> Member:
    if member.state is not NodeState.ALIVE:
        return member
    reason = "its connection closed"
    return replace(member, state=NodeState.SUSPECT, reason=reason, closed_s=now_s)


def _aged(member: Member, now_s: float) -> Member:
    if member.state not in {NodeState.ALIVE, NodeState.SUSPECT}:
        return member
    if member.closed_s is not None and now_s - member.closed_s >= REOPEN_WITHIN_S:
        return replace(member, state=NodeState.LOST, reason="its connection closed")
    silent_s = now_s - member.heard_s
    if silent_s < SUSPECT_AFTER_S:
        return member
    if silent_s < LOST_AFTER_S:
        reason = member.reason or f"silent for {silent_s:.0f} s"
        return replace(member, state=NodeState.SUSPECT, reason=reason)
    return _given_up(member, silent_s)


def _given_up(member: Member, silent_s: float) -> Member:
    if member.profile is not None:
        return replace(member, state=NodeState.LOST, reason=f"silent for {silent_s:.0f} s")
    reason = f"seen, but nothing answers at {', '.join(map(str, member.sighting.addresses))}"
    return replace(member, state=NodeState.UNUSABLE, reason=reason)


def _foreign(state: ClusterState, cluster: str, api: int) -> str:
    if api != state.api:
        older = "it" if api < state.api else "this edgepipe"
        return f"speaks wire version {api}, this edgepipe {state.api}: update {older}"
    if cluster != state.cluster:
        return f"belongs to cluster '{cluster}', not '{state.cluster}'"
    return ""


def _leased_away(profile: NodeProfile, job: str) -> str:
    """Why no device of the node is free, "" where one is."""
    taken = [device for device in profile.devices if _is_taken(device, job)]
    if len(taken) < len(profile.devices) or not taken:
        return ""
    return ", ".join(
        f"{device.id} is leased to job {device.lease.job} of {device.lease.holder}"
        for device in taken
        if device.lease is not None
    )


def _is_taken(device: DeviceProfile, job: str) -> bool:
    return device.lease is not None and device.lease.job != job
