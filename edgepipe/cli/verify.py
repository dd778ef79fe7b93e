"""`edgepipe verify MODEL`: the pipeline against one process."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.work import Objective


def verify(
    model: options.Model,
    *,
    prompt: Annotated[
        str, typer.Option(help="The text that is computed.")
    ] = "The quick brown fox jumps over the lazy dog, and then it rests in the shade of a tree.",
    train: Annotated[
        bool, typer.Option("--train", help="Compare the loss and gradients of a step too.")
    ] = False,
    cluster: options.Cluster = "default",
    peer: options.Peer = None,
    local: options.Local = None,
    threads: options.Threads = None,
    slowdown: options.Slowdown = None,
    stages: options.Stages = None,
    nodes: options.Nodes = None,
    split: options.Split = None,
    strategy: options.StrategyOption = None,
    plan: options.PlanFile = None,
    engine: options.EngineOption = "auto",
    dtype: options.Dtype = "auto",
    codec: options.CodecOption = "none",
    fresh_profile: options.FreshProfile = False,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Compare the pipeline's logits with those of the whole model in this process.

    With --train also the loss and the gradients of all weights in one step of training.
    Holds the whole model here: meant for small ones.
    """
    from edgepipe.cli.verifying import verify_model
    from edgepipe.transport.loop import run_loop

    del insecure
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )
    how = options.how(
        local=local,
        stages=stages,
        nodes=nodes,
        split=split,
        strategy=strategy,
        objective=Objective.LATENCY,
        plan=plan,
        dtype=dtype,
        codec=codec,
        engine=engine,
        fresh_profile=fresh_profile,
    )
    if not run_loop(verify_model(model, prompt, where, how, train=train, json=json)):
        raise typer.Exit(1)
