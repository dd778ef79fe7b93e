"""`edgepipe bench`: measured figures."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepipe.cli import options

bench = typer.Typer(no_args_is_help=True, help="Measure what is here, beside its bound.")


@bench.command()
def decode(
    model: Annotated[
        str | None, typer.Argument(help="Not needed with --engine emulated.", metavar="[MODEL]")
    ] = None,
    *,
    streams: Annotated[str, typer.Option(help="1,2,4: sequences at once.")] = "1",
    tokens: Annotated[int, typer.Option(help="Tokens of each sequence.")] = 128,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of each prompt.")] = 64,
    stage_ms: Annotated[
        str | None, typer.Option(help="10,20: milliseconds of each emulated stage.")
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
    engine: options.EngineOption = "auto",
    weights: options.Weights = "auto",
    dtype: options.Dtype = "auto",
    codec: options.CodecOption = "auto",
    fresh_profile: options.FreshProfile = False,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Tokens per second, and what a stage and a hop take."""
    from edgepipe.cli.benches import DecodeBench, bench_decode
    from edgepipe.core.work import Objective
    from edgepipe.errors import UsageError
    from edgepipe.transport.loop import run_loop

    del insecure
    if engine == "emulated" and model is not None:
        raise UsageError("--engine emulated computes nothing: leave the model out")
    if engine != "emulated" and model is None:
        raise UsageError("name a model, or measure the runtime alone with --engine emulated")
    if engine != "emulated" and stage_ms is not None:
        raise UsageError("--stage-ms is for --engine emulated")
    if engine == "emulated" and (split, strategy, dtype) != (None, None, "auto"):
        raise UsageError("--engine emulated has no layers: no --split, --strategy or --dtype")
    options.check_engine(engine, "torch", "onnx", "emulated")
    work = DecodeBench(
        model=model,
        streams=options.numbers(streams, "--streams", int),
        num_tokens=tokens,
        prompt_tokens=prompt_tokens,
        stage_ms=options.numbers(stage_ms or "0", "--stage-ms", float),
    )
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
        plan=None,
        dtype=dtype,
        codec=codec,
        engine="auto" if model is None else engine,
        weights=weights,
        fresh_profile=fresh_profile,
    )
    run_loop(bench_decode(work, where, how, json=json))


@bench.command()
def link(
    *,
    frame_mib: Annotated[int, typer.Option(help="Size of the frame that is sent.")] = 16,
    cluster: options.Cluster = "default",
    peer: options.Peer = None,
    local: options.Local = None,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Every link both ways, with real frames, beside one raw TCP stream."""
    from edgepipe.cli.link_bench import bench_link
    from edgepipe.transport.loop import run_loop

    del insecure
    where = options.where(cluster=cluster, peer=peer, local=local, threads=None, slowdown=None)
    run_loop(bench_link(where, frame_mib=frame_mib, json=json))


@bench.command()
def train(
    *,
    forward_ms: Annotated[
        str, typer.Option(help="20,40: milliseconds of a microbatch, of all stages or each.")
    ] = "20",
    backward_ms: Annotated[str, typer.Option(help="The same of its backward.")] = "40",
    microbatches: Annotated[int, typer.Option(help="Microbatches of a step.")] = 16,
    activation_kib: Annotated[
        int, typer.Option(help="What crosses a boundary, in float32 before the codec.")
    ] = 256,
    schedule: Annotated[
        str, typer.Option(help="gpipe, 1f1b, 1f1b-k, or a .csv file of actions.")
    ] = "1f1b-k",
    steps: Annotated[int, typer.Option(help="Steps that are measured.")] = 10,
    cluster: options.Cluster = "default",
    peer: options.Peer = None,
    local: options.Local = None,
    threads: options.Threads = None,
    slowdown: options.Slowdown = None,
    stages: options.Stages = None,
    nodes: options.Nodes = None,
    codec: options.CodecOption = "auto",
    fresh_profile: options.FreshProfile = False,
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Seconds of a training step, of emulated stages over real links."""
    from edgepipe.cli.train_bench import TrainBench, bench_train
    from edgepipe.core.work import Objective
    from edgepipe.transport.loop import run_loop

    del insecure
    work = TrainBench(
        forward_ms=options.numbers(forward_ms, "--forward-ms", float),
        backward_ms=options.numbers(backward_ms, "--backward-ms", float),
        microbatches=microbatches,
        activation_kib=activation_kib,
        schedule=schedule,
        num_steps=steps,
    )
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )
    how = options.how(
        local=local,
        stages=stages,
        nodes=nodes,
        split=None,
        strategy=None,
        objective=Objective.TRAIN,
        plan=None,
        dtype="float32",
        codec=codec,
        fresh_profile=fresh_profile,
    )
    run_loop(bench_train(work, where, how, json=json))
