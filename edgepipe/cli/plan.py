"""`edgepipe plan MODEL`: who would run which layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.pipeline import Objective
from edgepipe.errors import UsageError

MAX_SLOTS = 1024


def plan(
    model: options.Model,
    *,
    cluster: options.Cluster = "default",
    peer: options.Peer = None,
    local: options.Local = None,
    threads: options.Threads = None,
    slowdown: options.Slowdown = None,
    stages: options.Stages = None,
    nodes: options.Nodes = None,
    split: options.Split = None,
    strategy: options.StrategyOption = None,
    objective: options.ObjectiveOption = Objective.LATENCY,
    dtype: options.Dtype = "auto",
    codec: options.CodecOption = "auto",
    context: Annotated[
        int | None, typer.Option(help="Tokens of each sequence to keep room for.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    save: Annotated[Path | None, typer.Option(help="Write the plan to a file, for --plan.")] = None,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Show the plan for a model: stages, memory, and whether it fits."""
    from dataclasses import replace

    from edgepipe.cli.plans import show_plan
    from edgepipe.core.plan import require_fit
    from edgepipe.transport.loop import run_loop

    del insecure
    if not 1 <= slots <= MAX_SLOTS:
        raise UsageError(f"--slots {slots} is not within 1 to {MAX_SLOTS}")
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )
    how = options.how(
        local=local,
        stages=stages,
        nodes=nodes,
        split=split,
        strategy=strategy,
        objective=objective,
        plan=None,
        dtype=dtype,
        codec=codec,
    )
    how = replace(how, num_slots=slots)
    found = run_loop(show_plan(model, where, how, context, json=json))
    if save is not None:
        options.write_plan(save, found)
    if json and not found.feasible:
        raise typer.Exit(1)
    require_fit(found)
