"""`edgepipe train CONFIG.toml`: full or LoRA fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.work import Objective


def train(
    config: Annotated[
        Path, typer.Argument(help="A training config (TOML).", metavar="CONFIG.toml")
    ],
    *,
    resume: Annotated[
        Path | None, typer.Option(help="Go on from this run's last checkpoint.")
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, in place of the config's. Repeatable."),
    ] = None,
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
    codec: options.CodecOption = "auto",
    fresh_profile: options.FreshProfile = False,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Fine-tune a model across the machines that are here."""
    from edgepipe.cli.training import run_training
    from edgepipe.coordinator.train_config_file import read_train_config
    from edgepipe.transport.loop import run_loop

    del insecure
    options.check_engine(engine, "torch")
    wanted = read_train_config(config, setting or ())
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )
    how = options.how(
        local=local,
        stages=stages,
        nodes=nodes,
        split=split,
        strategy=strategy,
        objective=Objective.TRAIN,
        plan=plan,
        dtype=dtype,
        codec=codec,
        fresh_profile=fresh_profile,
    )
    run_loop(run_training(wanted, where, how, resume=resume, json=json))
