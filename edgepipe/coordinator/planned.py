"""A plan for the nodes that are here: measured first, where they are not known yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

from edgepipe.coordinator.background import in_background
from edgepipe.coordinator.borrowing import Held
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.pinned import pinned_plan
from edgepipe.coordinator.planning import (
    How,
    candidates,
    check_usable,
    computing,
    explained,
    make_plan,
    takes,
)
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.surveying import Measuring, Surveyed, survey
from edgepipe.core.engine_choice import faster
from edgepipe.core.leaving import UNNAMED
from edgepipe.core.pipeline import LeftOut, Plan
from edgepipe.errors import PlanError


class Planning(Measuring, Protocol):
    """What a person is shown on the way to a plan."""

    def searching(self, done: int, total: int) -> None:
        """Settings that were searched; called from another thread."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A plan, and what it was made from; None where it was given."""

    plan: Plan
    surveyed: Surveyed | None


async def plan_for(
    prepared: Prepared,
    roster: Roster,
    how: How,
    *,
    max_positions: int,
    home: Path,
    interface: Planning,
    held: Held = MappingProxyType({}),
) -> Planned:
    """Measure what is not known of the devices, and plan; the plan may not fit.

    On `held` devices stages of ours run meanwhile. Raises PlanError where nothing is usable, and as
    `make_plan`.
    """
    if how.preferred is not None and takes(how.preferred, roster):
        return Planned(plan=how.preferred, surveyed=None)
    if how.pinned is not None:
        pinned = pinned_plan(how.pinned, prepared.shape, max_positions, how.objective, how.engine)
        return Planned(plan=pinned, surveyed=None)
    check_usable(roster, how)
    how = computing(how, prepared.shape, candidates(roster))
    work = how.work(prepared.shape, max_positions)
    surveyed = await survey(
        roster,
        prepared.model.config,
        prepared.shape,
        workload=work.workload,
        sequence_length=work.batch.sequence_length if work.batch is not None else 0,
        rank=work.batch.adapter_rank if work.batch is not None else 0,
        engines=how.engines_for(work),
        offsets=prepared.offsets,
        faster=partial(faster, work=work),
        nodes=how.nodes,
        held=held,
        fresh=how.fresh_profile,
        home=home,
        now_s=time.time(),
        progress=interface,
    )
    try:
        found = await in_background(
            partial(
                make_plan,
                prepared.shape,
                surveyed.survey,
                how,
                max_positions,
                progress=interface.searching,
            )
        )
    except PlanError as error:
        raise _unmeasured(explained(error, roster), surveyed) from None
    out = (
        LeftOut(node=each.node, device=each.device, reason=each.reason)
        for each in surveyed.left_out
    )
    left_out = (*found.left_out, *out, *_unnamed(roster, how))
    return Planned(plan=replace(found, left_out=left_out), surveyed=surveyed)


def _unnamed(roster: Roster, how: How) -> Iterator[LeftOut]:
    """The free devices of nodes that the user did not name: they are not measured either."""
    for candidate in candidates(roster) if how.nodes is not None else ():
        if candidate.node not in (how.nodes or ()):
            yield LeftOut(node=candidate.node, device=candidate.device.id, reason=UNNAMED)


def _unmeasured(error: PlanError, surveyed: Surveyed) -> PlanError:
    """The error, with the devices that could not be measured."""
    if not surveyed.left_out:
        return error
    out = "; ".join(f"{each.node} ({each.device}): {each.reason}" for each in surveyed.left_out)
    return PlanError(f"{error} (not measured: {out})")
