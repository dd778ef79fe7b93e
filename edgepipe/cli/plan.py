"""`edgepipe plan MODEL`: who would run which layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.work import DEFAULT_PROMPT_TOKENS, Batch, Objective, TrainMode
from edgepipe.errors import UsageError

MAX_SLOTS = 1024
MAX_SEQUENCES = 4096
MAX_TOKENS = 1 << 20


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
    engine: options.EngineOption = "auto",
    weights: options.Weights = "auto",
    dtype: options.Dtype = "auto",
    codec: options.CodecOption = "auto",
    context: Annotated[
        int | None, typer.Option(help="Tokens of each sequence to keep room for.")
    ] = None,
    slots: Annotated[int, typer.Option(help="Sequences at once.")] = 1,
    prompt_tokens: Annotated[
        int, typer.Option(help="Tokens of the prompt, for --objective prefill.")
    ] = DEFAULT_PROMPT_TOKENS,
    mode: Annotated[
        TrainMode, typer.Option(help="lora or full, for --objective train.")
    ] = TrainMode.LORA,
    sequences: Annotated[int, typer.Option(help="Sequences of a training step.")] = 8,
    sequence_length: Annotated[int, typer.Option(help="Tokens of each.")] = 512,
    explain: Annotated[
        bool, typer.Option("--explain", help="Its rivals too, and what a person can do.")
    ] = False,
    cluster_file: Annotated[
        Path | None,
        typer.Option(help="Plan on paper, for the machines of a file."),
    ] = None,
    fresh_profile: options.FreshProfile = False,
    save: Annotated[Path | None, typer.Option(help="Write the plan to a file, for --plan.")] = None,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Show the plan for a model: stages, memory, and whether it fits."""
    from dataclasses import replace

    from edgepipe.cli.plans import PlanView, show_plan
    from edgepipe.core.remedy import require_fit
    from edgepipe.transport.loop import run_loop

    del insecure
    options.check_range("--slots", slots, MAX_SLOTS)
    options.check_range("--prompt-tokens", prompt_tokens, MAX_TOKENS)
    options.check_range("--sequences", sequences, MAX_SEQUENCES)
    options.check_range("--sequence-length", sequence_length, MAX_TOKENS)
    if cluster_file is not None and (local is not None or peer):
        raise UsageError("--cluster-file plans on paper: leave out --local and --peer")
    if cluster_file is not None and fresh_profile:
        raise UsageError("--cluster-file measures nothing: leave out --fresh-profile")
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
        engine=engine,
        weights=weights,
    )
    how = replace(
        how,
        num_slots=slots,
        prompt_tokens=prompt_tokens,
        batch=Batch(mode=mode, sequences=sequences, sequence_length=sequence_length),
        fresh_profile=fresh_profile,
    )
    view = PlanView(context=context, cluster_file=cluster_file, explain=explain, json=json)
    found = run_loop(show_plan(model, where, how, view))
    if save is not None:
        options.write_plan(save, found)
    if json and not found.feasible:
        raise typer.Exit(1)
    require_fit(found)
