"""`edgepipe serve MODEL`: an OpenAI-compatible server."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from edgepipe.cli import options
from edgepipe.core.drafting import DEFAULT_DRAFTS
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Objective
from edgepipe.errors import UsageError

MAX_SLOTS = 256
MAX_QUEUE = 4096
DEFAULT_WEIGHTS = WeightFormat.INT8
"""Within a percent of float32 in perplexity, and three times as fast (docs/LOG.md)."""
EXPECTED_ANSWER_TOKENS = 256
"""What the plan is made for: few answers fill a slot."""
_SERVER = "The server"
_NEEDED = ("fastapi", "uvicorn")


def serve(
    model: options.Model,
    *,
    host: Annotated[str, typer.Option(help="Where to listen.", rich_help_panel=_SERVER)] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="0 picks one.", rich_help_panel=_SERVER)] = 8000,
    slots: Annotated[
        int, typer.Option(help="Answers that are generated at once.", rich_help_panel=_SERVER)
    ] = 8,
    queue: Annotated[
        int,
        typer.Option(
            help="Answers that may wait for a slot; beyond them clients get a 429.",
            rich_help_panel=_SERVER,
        ),
    ] = 64,
    context: Annotated[
        int | None,
        typer.Option(
            help="Tokens of a slot, prompt and answer. Default: the model's, 4096 at most.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="EDGEPIPE_API_KEY",
            help="What clients must send as bearer token to /v1.",
            rich_help_panel=_SERVER,
            show_envvar=True,
        ),
    ] = None,
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
    """Serve a model with OpenAI's API: /v1/chat/completions, /v1/completions, /v1/models."""
    del insecure
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise UsageError(
            f"serving wants {', '.join(missing)}, which is not installed: "
            "run pip install 'edgepipe[serve]'"
        )

    from dataclasses import replace

    from edgepipe.cli.serving import Service, serve_model
    from edgepipe.obs import logs
    from edgepipe.transport.loop import run_loop

    options.check_range("--slots", slots, MAX_SLOTS)
    if not 0 <= queue <= MAX_QUEUE:
        raise UsageError(f"--queue {queue} is not within 0 to {MAX_QUEUE}")
    if not 0 <= port < 1 << 16:
        raise UsageError(f"--port {port} is not within 0 to 65535")
    if api_key is not None and not api_key:
        raise UsageError("--api-key is empty: leave it out, or give one")
    if api_key is not None and not _can_be_sent(api_key):
        raise UsageError("--api-key holds what no client can send: use letters, digits and signs")
    where = options.where(
        cluster=cluster, peer=peer, local=local, threads=threads, slowdown=slowdown
    )
    how = options.how(
        local=local,
        stages=stages,
        nodes=nodes,
        split=split,
        strategy=strategy,
        objective=Objective.THROUGHPUT,
        plan=plan,
        dtype=dtype,
        codec=codec,
        engine=engine,
        drafts=drafts,
        weights=DEFAULT_WEIGHTS if (weights, dtype, plan) == ("auto", "auto", None) else weights,
        fresh_profile=fresh_profile,
    )
    service = Service(host=host, port=port, queue=queue, context=context, api_key=api_key)
    logs.configure(logs.LogFormat.AUTO, "warning")
    run_loop(
        serve_model(
            model,
            service,
            where,
            replace(how, num_slots=slots, answer_tokens=EXPECTED_ANSWER_TOKENS),
            adapter=adapter,
            json=json,
        )
    )


def _can_be_sent(api_key: str) -> bool:
    """Whether a header can hold it, and gives it back as it was."""
    return api_key.isascii() and api_key.isprintable() and api_key == api_key.strip()
