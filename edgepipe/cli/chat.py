"""`edgepipe chat MODEL`: talk to it."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.drafting import DEFAULT_DRAFTS
from edgepipe.core.work import Objective


def chat(
    model: options.Model,
    *,
    system: Annotated[str | None, typer.Option(help="How the model should behave.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens that the talk may have.")] = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    adapter: options.Adapter = None,
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
    weights: options.Weights = "auto",
    drafts: options.Drafts = DEFAULT_DRAFTS,
    dtype: options.Dtype = "auto",
    codec: options.CodecOption = "auto",
    fresh_profile: options.FreshProfile = False,
    insecure: options.Insecure = False,
) -> None:
    """Talk to a model; an empty line or Ctrl-D ends it."""
    from edgepipe.cli.talking import talk
    from edgepipe.coordinator.answer_wish import Wish
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
        drafts=drafts,
        weights=weights,
        fresh_profile=fresh_profile,
    )
    wish = Wish(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        seed=seed,
        stops=tuple(stop or ()),
    )
    run_loop(talk(model, wish, where, how, adapter=adapter, system=system, context=context))
