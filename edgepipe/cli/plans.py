"""Making a plan and showing it."""

from __future__ import annotations

from rich.console import Console

from edgepipe.cli.show import print_json
from edgepipe.cli.tables import plan_table
from edgepipe.coordinator.launch import Where, open_cluster, prepare
from edgepipe.coordinator.planning import How, check_cut, make_plan
from edgepipe.core.pipeline import Plan
from edgepipe.errors import UsageError

DEFAULT_CONTEXT = 4096


async def show_plan(name: str, where: Where, how: How, context: int | None, *, json: bool) -> Plan:
    """Plan a model on the cluster and print it. Raises ModelError, PlanError."""
    prepared = await prepare(name, home=where.home)
    check_cut(how, prepared.shape)
    longest = prepared.shape.max_positions
    if context is not None and not 0 < context <= longest:
        raise UsageError(f"--context {context} is not within the model's 1 to {longest}")
    async with open_cluster(where) as roster:
        found = make_plan(prepared.shape, roster, how, context or min(longest, DEFAULT_CONTEXT))
    if json:
        print_json(found.to_json())
    else:
        Console().print(plan_table(found))
    return found
