"""`edgepipe run MODEL`: one answer."""

from __future__ import annotations

from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.drafting import DEFAULT_DRAFTS
from edgepipe.core.work import Objective
from edgepipe.errors import UsageError


def run(
    model: options.Model,
    *,
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = None,
    top_p: options.TopP = None,
    top_k: options.TopK = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    raw: Annotated[bool, typer.Option("--raw", help="Do not apply the chat template.")] = False,
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
    json: options.Json = False,
    insecure: options.Insecure = False,
) -> None:
    """Generate an answer, streamed as it comes."""
    from edgepipe.cli.answering import answer_once
    from edgepipe.coordinator.answer_wish import Wish
    from edgepipe.transport.loop import run_loop

    del insecure
    if not prompt:
        raise UsageError("--prompt is empty: ask something")
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
    run_loop(answer_once(model, prompt, wish, where, how, adapter=adapter, raw=raw, json=json))
