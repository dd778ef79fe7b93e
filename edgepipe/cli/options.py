"""Options that several commands share, and what they mean to the coordinator."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edgepipe.core.frame import Codec, DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Objective, Strategy
from edgepipe.errors import PlanError, UsageError

if TYPE_CHECKING:
    from edgepipe.coordinator.launch import Where
    from edgepipe.coordinator.planning import How

N = TypeVar("N", int, float)
C = TypeVar("C", DType, Codec)

_DEVICES = "Devices"
_CUT = "How the model is cut"

Model = Annotated[
    str,
    typer.Argument(
        help="A folder, a .gguf file, a Hugging Face id, or smollm2-135m.", metavar="MODEL"
    ),
]
Adapter = Annotated[
    Path | None, typer.Option("--adapter", help="The folder of a PEFT adapter of the model.")
]
Cluster = Annotated[
    str,
    typer.Option(envvar="EDGEPIPE_CLUSTER", help="Whose agents to use.", rich_help_panel=_DEVICES),
]
Peer = Annotated[
    list[str] | None,
    typer.Option(
        envvar="EDGEPIPE_PEER",
        help="HOST:PORT of an agent that mDNS does not find. Repeatable.",
        rich_help_panel=_DEVICES,
    ),
]
Local = Annotated[
    int | None,
    typer.Option(
        help="Start N private agents on this machine and use them all.", rich_help_panel=_DEVICES
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="CPU threads of each private agent.", rich_help_panel=_DEVICES)
]
Slowdown = Annotated[
    str | None,
    typer.Option(
        help="1,1,2: how much slower each private agent computes.", rich_help_panel=_DEVICES
    ),
]
Stages = Annotated[int | None, typer.Option(help="Exactly so many stages.", rich_help_panel=_CUT)]
Nodes = Annotated[
    str | None, typer.Option(help="a,b,c: these nodes, in this order.", rich_help_panel=_CUT)
]
Split = Annotated[
    str | None,
    typer.Option(help="10,20: the layers at which a new stage begins.", rich_help_panel=_CUT),
]
StrategyOption = Annotated[
    Strategy | None,
    typer.Option("--strategy", help="How layers are shared out.", rich_help_panel=_CUT),
]
ObjectiveOption = Annotated[
    Objective,
    typer.Option("--objective", help="What the plan is to be good at.", rich_help_panel=_CUT),
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", help="Use a plan that was saved.", rich_help_panel=_CUT)
]
Dtype = Annotated[
    str, typer.Option(help="auto, float32, bfloat16 or float16.", rich_help_panel=_CUT)
]
CodecOption = Annotated[
    str,
    typer.Option(
        "--codec",
        help="auto, none, bf16, int8 or int4: how activations travel. auto never takes int4; "
        "where it is asked for, gradients travel as int8.",
        rich_help_panel=_CUT,
    ),
]
FreshProfile = Annotated[
    bool,
    typer.Option(
        "--fresh-profile", help="Measure devices and links anew.", rich_help_panel=_DEVICES
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        "--engine",
        envvar="EDGEPIPE_ENGINE",
        help="auto, torch or onnx. auto takes what a device was measured to be faster with.",
        rich_help_panel=_CUT,
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        "--weights",
        envvar="EDGEPIPE_WEIGHTS",
        help="auto, float32, bfloat16, float16, int8 or int4: how matrices are held, of all "
        "stages, or of each with commas between them.",
        rich_help_panel=_CUT,
    ),
]
_ANSWER = "The answer"
Drafts = Annotated[
    int,
    typer.Option(
        "--drafts",
        min=0,
        max=64,
        help="Tokens that are guessed at once from what was said before, where the pipeline has "
        "time to spare; in float32 they change no answer. 0 is off.",
        rich_help_panel=_CUT,
    ),
]
MaxTokens = Annotated[
    int | None, typer.Option(help="At most so many tokens.", rich_help_panel=_ANSWER)
]
Temperature = Annotated[
    float | None,
    typer.Option(help="0 is greedy. Default: the model's own, else 0.", rich_help_panel=_ANSWER),
]
TopP = Annotated[float | None, typer.Option(help="Nucleus.", rich_help_panel=_ANSWER)]
TopK = Annotated[int | None, typer.Option(help="0 is off.", rich_help_panel=_ANSWER)]
Seed = Annotated[
    int | None, typer.Option(help="The same seed gives the same answer.", rich_help_panel=_ANSWER)
]
Stop = Annotated[
    list[str] | None,
    typer.Option(help="End the answer before this text. Repeatable.", rich_help_panel=_ANSWER),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Insecure = Annotated[
    bool,
    typer.Option("--insecure", help="Accept plain text beyond loopback.", rich_help_panel=_DEVICES),
]


def check_range(what: str, value: int, high: int) -> None:
    """Raise UsageError unless the value is within 1 to `high`."""
    if not 1 <= value <= high:
        raise UsageError(f"{what} {value} is not within 1 to {high}")


def check_engine(engine: str, *known: str) -> None:
    """Raise UsageError for an engine that is none of these, for what a command does."""
    if engine not in {"auto", *known}:
        raise UsageError(f"--engine is auto or {' or '.join(known)}, not {engine!r}")


def home() -> Path:
    """EDGEPIPE_HOME, else the platform's place for an application's data."""
    from edgepipe.home import current_home

    return current_home()


def where(
    *,
    cluster: str,
    peer: list[str] | None,
    local: int | None,
    threads: int | None,
    slowdown: str | None,
) -> Where:
    """Which machines to use. Raises UsageError."""
    from edgepipe.coordinator.launch import Where
    from edgepipe.coordinator.local import check_local
    from edgepipe.discovery.peers import parse_peers

    if local is None and (threads is not None or slowdown is not None):
        raise UsageError("--threads and --slowdown are for the private agents of --local")
    if local is not None and peer:
        raise UsageError("--local uses private agents only: leave out --peer")
    slowdowns = numbers(slowdown, "--slowdown", float)
    if local is not None:
        check_local(local, threads, slowdowns)
    return Where(
        home=home(),
        cluster=cluster,
        peers=parse_peers(part for text in peer or () for part in text.split(",")),
        local=local,
        threads=threads,
        slowdowns=slowdowns,
    )


def how(
    *,
    local: int | None,
    stages: int | None,
    nodes: str | None,
    split: str | None,
    strategy: Strategy | None,
    objective: Objective,
    plan: Path | None,
    dtype: str,
    codec: str,
    engine: str = "auto",
    weights: str = "auto",
    drafts: int = 0,
    fresh_profile: bool = False,
) -> How:
    """How to cut the model. Raises UsageError."""
    from edgepipe.coordinator.planning import How

    cuts = numbers(split, "--split", int) if split is not None else None
    if stages is not None and stages < 1:
        raise UsageError(f"--stages {stages} makes no pipeline: ask for at least 1")
    if local is not None and stages not in {None, local}:
        raise UsageError(f"--local {local} makes {local} stages, not the {stages} of --stages")
    wanted = f"--local {local}" if local is not None else f"--stages {stages}"
    num_stages = local if local is not None else stages
    if num_stages is not None and cuts is not None and len(cuts) + 1 != num_stages:
        raise UsageError(
            f"{wanted} makes {num_stages} stages, but --split {split} makes {len(cuts) + 1}"
        )
    whole = (nodes, split, strategy, stages, dtype, weights) == (*(None,) * 4, "auto", "auto")
    if plan is not None and not whole:
        raise UsageError(
            "--plan is a whole plan: leave out --nodes, --split, --strategy, --stages, --dtype and "
            "--weights"
        )
    check_engine(engine, "torch", "onnx")
    return How(
        objective=objective,
        strategy=strategy,
        num_stages=num_stages,
        nodes=_names(nodes) if nodes is not None else None,
        split=cuts,
        pinned=_read_plan(plan) if plan is not None else None,
        dtype=_choice(dtype, DType, ("float32", "bfloat16", "float16"), "--dtype"),
        engine=None if engine == "auto" else engine,
        weight_formats=_weight_formats(weights),
        max_draft=drafts,
        codec=_choice(codec, Codec, tuple(Codec), "--codec"),
        fresh_profile=fresh_profile,
    )


def _weight_formats(text: str) -> tuple[WeightFormat, ...]:
    if text == "auto":
        return ()
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in set(WeightFormat):
            known = ", ".join(WeightFormat)
            raise UsageError(f"--weights is auto, or of {known}, not {name!r}")
    return tuple(WeightFormat(name) for name in names)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise UsageError(f"--nodes wants names with commas between them, not {text!r}")
    return names


def numbers(text: str | None, what: str, kind: Callable[[str], N]) -> tuple[N, ...]:
    """`1,2,3` as numbers, none for None."""
    if text is None:
        return ()
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{what} wants numbers with commas between them, not {text!r}") from None


def _choice(text: str, kind: Callable[[str], C], choices: Collection[str], what: str) -> C | None:
    """One of a closed set, None for `auto`."""
    if text == "auto":
        return None
    if text not in choices:
        raise UsageError(f"{what} is one of auto, {', '.join(choices)}, not {text!r}")
    return kind(text)


def _read_plan(file: Path) -> Plan:
    try:
        text = file.read_text()
    except OSError as error:
        raise UsageError(f"--plan {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"--plan {file} is not a plan that edgepipe saved: not text") from None
    try:
        return Plan.loads(text)
    except (PlanError, RecursionError) as error:
        raise UsageError(f"--plan {file} cannot be used: {error}") from None


def write_plan(file: Path, plan: Plan) -> None:
    """Save a plan. Raises UsageError where that cannot be done."""
    try:
        file.write_text(json.dumps(plan.to_json(), indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"--save {file} cannot be written: {error.strerror}") from None
