"""Making a plan and showing it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from edgepipe.cli.plan_tables import advice_list, rivals_table
from edgepipe.cli.show import StepBars, errors, print_json
from edgepipe.cli.speed_tables import unlinked_lines
from edgepipe.cli.tables import plan_table
from edgepipe.coordinator.background import in_background
from edgepipe.coordinator.cluster_file import read_cluster_file
from edgepipe.coordinator.context import context_of
from edgepipe.coordinator.launch import Where, plan_model
from edgepipe.coordinator.planning import How, asked_of, check_cut, for_seconds, make_plan
from edgepipe.coordinator.prepared import Prepared, prepare
from edgepipe.core.advice import Advice, advise, plan_document
from edgepipe.core.pipeline import Plan
from edgepipe.core.stated import Pass
from edgepipe.core.survey import Survey
from edgepipe.core.work import Objective, TrainMode

ADVICE_S = 10.0
"""For what-ifs, after the plan itself."""

_PASSES = {
    Objective.LATENCY: (Pass.DECODE, Pass.PREFILL),
    Objective.THROUGHPUT: (Pass.DECODE, Pass.PREFILL),
    Objective.PREFILL: (Pass.DECODE, Pass.PREFILL),
    Objective.TRAIN: (Pass.FORWARD, Pass.BACKWARD),
}
"""What a device of a cluster file must state for each objective."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """What to show of a plan, and where its devices come from."""

    context: int | None
    cluster_file: Path | None
    explain: bool
    json: bool


async def show_plan(name: str, where: Where, how: How, view: PlanView) -> Plan:
    """Plan a model and print it. Raises ModelError, PlanError, UsageError."""
    prepared = await prepare(name, home=where.home)
    check_cut(how, prepared.shape)
    max_positions = context_of(view.context, prepared.shape.max_positions)
    bars = StepBars(Console(stderr=True, quiet=view.json))
    try:
        found, survey = await _plan(
            prepared, where, how, view.cluster_file, max_positions=max_positions, bars=bars
        )
        advice = await in_background(
            partial(_advice, prepared, survey, how, max_positions, found, explain=view.explain)
        )
    finally:
        bars.stop()
    if view.json:
        print_json(plan_document(found, advice))
    else:
        _print(found, advice, explain=view.explain)
    return found


async def _plan(
    prepared: Prepared,
    where: Where,
    how: How,
    cluster_file: Path | None,
    *,
    max_positions: int,
    bars: StepBars,
) -> tuple[Plan, Survey]:
    """The plan, and what it was made from."""
    if cluster_file is not None:
        survey = await asyncio.to_thread(on_paper, cluster_file, prepared, how, max_positions)
        found = await in_background(
            partial(make_plan, prepared.shape, survey, how, max_positions, progress=bars.searching)
        )
        return found, survey
    planned = await plan_model(prepared, where, how, max_positions=max_positions, interface=bars)
    assert planned.surveyed is not None
    for line in unlinked_lines(planned.surveyed.unlinked):
        errors().print(line, style="yellow", markup=False)
    return planned.plan, planned.surveyed.survey


def on_paper(file: Path, prepared: Prepared, how: How, max_positions: int) -> Survey:
    """The machines of a cluster file. Raises UsageError."""
    work = how.work(prepared.shape, max_positions)
    return read_cluster_file(
        file,
        prepared.shape,
        work.workload.dtype,
        prefill_chunk=work.workload.prefill_chunk,
        passes=_PASSES[work.objective],
        adapted=work.batch is not None and work.batch.mode is TrainMode.LORA,
    )


def _advice(
    prepared: Prepared,
    survey: Survey,
    how: How,
    max_positions: int,
    found: Plan,
    *,
    explain: bool,
) -> tuple[Advice, ...]:
    if not explain:
        return ()
    asked = asked_of(prepared.shape, survey, how.as_planned(found), max_positions)
    return advise(asked, found, for_seconds(ADVICE_S))


def _print(found: Plan, advice: tuple[Advice, ...], *, explain: bool) -> None:
    console = Console()
    console.print(plan_table(found))
    if explain:
        console.print(rivals_table(found))
        console.print(advice_list(advice))
    elif found.rivals:
        errors().print("edgepipe plan --explain shows its rivals, and what helps", style="dim")
