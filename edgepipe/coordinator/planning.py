"""Planning for the machines that were found: what the user asked for, and what there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgepipe.coordinator.nodes import Roster
from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import Candidate, Objective, Strategy, plan, require_fit
from edgepipe.core.profile import NodeState
from edgepipe.core.split import equal_split, manual_split
from edgepipe.errors import PlanError

PREFILL_CHUNK = 128
MAX_REASONS = 8
"""Nodes that a sentence names; the others it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to cut the model, and what its stages hold and send. None means: choose."""

    objective: Objective = Objective.LATENCY
    strategy: Strategy | None = None
    num_stages: int | None = None
    nodes: tuple[str, ...] | None = None
    split: tuple[int, ...] | None = None
    pinned: Plan | None = None
    dtype: DType | None = None
    codec: Codec | None = None
    num_slots: int = 1
    prefill_chunk: int = PREFILL_CHUNK

    def resolved_strategy(self) -> Strategy:
        """`manual` where a split is given, else `equal`."""
        if self.strategy is not None:
            return self.strategy
        return Strategy.EQUAL if self.split is None else Strategy.MANUAL


def candidates(roster: Roster) -> tuple[Candidate, ...]:
    """Every free device of the usable nodes."""
    return tuple(
        Candidate(node=node.profile.name, device=device, host=node.profile.host_id)
        for node in roster.usable
        for device in node.profile.devices
        if device.lease is None
    )


def check_cut(how: How, shape: ModelShape) -> None:
    """Refuse a cut that the model cannot have, before anything starts.

    Raises SplitError, and PlanError for more stages than layers.
    """
    if how.split is not None:
        manual_split(shape.num_layers, how.split)
    elif how.num_stages is not None:
        equal_split(shape.num_layers, how.num_stages)


def make_plan(shape: ModelShape, roster: Roster, how: How, max_positions: int) -> Plan:
    """Plan for the free devices. Raises PlanError, SplitError or UsageError; may not fit."""
    devices = candidates(roster)
    if not devices and (why := why_not(roster)):
        raise PlanError(f"no device is usable: {why}")
    try:
        return plan(
            shape,
            devices,
            strategy=how.resolved_strategy(),
            objective=how.objective,
            dtype=how.dtype or shape.dtype,
            num_slots=how.num_slots,
            max_positions=max_positions,
            prefill_chunk=how.prefill_chunk,
            num_stages=how.num_stages,
            nodes=how.nodes,
            split=how.split,
        )
    except PlanError as error:
        raise explained(error, roster) from None


def choose_plan(shape: ModelShape, roster: Roster, how: How, max_positions: int) -> Plan:
    """The plan to deploy: a new one, or the given one. Raises DoesNotFit, or as make_plan."""
    if how.pinned is None:
        chosen = make_plan(shape, roster, how, max_positions)
    else:
        chosen = _pinned(how.pinned, shape, max_positions)
    require_fit(chosen)
    return chosen


def _pinned(pinned: Plan, shape: ModelShape, max_positions: int) -> Plan:
    if pinned.model != shape.name or pinned.num_layers != shape.num_layers:
        raise PlanError(f"the plan is for {pinned.model}, not for {shape.name}: plan anew")
    if pinned.inputs.max_positions < max_positions:
        raise PlanError(
            f"the plan keeps {pinned.inputs.max_positions} tokens per sequence, "
            f"and {max_positions} are wanted: plan anew with --context {max_positions}"
        )
    return pinned


def explained(error: PlanError, roster: Roster) -> PlanError:
    """The error, with what is known of the nodes and devices that cannot be used."""
    why = why_not(roster)
    return PlanError(f"{error} ({why})") if why else error


def why_not(roster: Roster) -> str:
    """Why nodes and devices cannot be used; "" where all can be."""
    reasons = list(_not_usable(roster))
    more = len(reasons) - MAX_REASONS
    return "; ".join([*reasons[:MAX_REASONS], f"and {more} more"] if more > 0 else reasons)


def _not_usable(roster: Roster) -> Iterator[str]:
    for member in sorted(roster.state.members.values(), key=lambda member: member.name):
        devices = member.profile.devices if member.profile is not None else ()
        if member.state is not NodeState.ALIVE:
            yield f"{member.name}: {member.reason}"
        elif not devices:
            yield f"{member.name}: its worker is being started, try again in a moment"
        for device in devices:
            if member.state is NodeState.ALIVE and device.lease is not None:
                lease = device.lease
                yield f"{member.name}: {device.id} is leased to job {lease.job} of {lease.holder}"
