"""What a plan is predicted to do, in the terms that a run is measured in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from edgepipe.core.compression import Table
from edgepipe.core.costs import BottleneckKind
from edgepipe.core.outcome import Outcome, play
from edgepipe.core.posing import Asked, pose
from edgepipe.core.problem import Placement
from edgepipe.core.setting import Setting
from edgepipe.core.simulate import infer
from edgepipe.core.work import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Busiest:
    """What is busiest: a device, a link, a NIC's direction or a medium, or a device's memory."""

    kind: BottleneckKind
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Decode or prefill of one sequence: seconds of each stage per frame, and of all its hops.

    `seconds` are those of a token, or until all `num_frames` chunks of a prompt are through and
    the first token is with whoever asked.
    """

    seconds: float
    num_frames: int
    stage_s: tuple[float, ...]
    hops_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The objective's figures, and those of a single stream beside.

    `tokens_per_s` are of all streams together, None where a token takes no time; `ttft_s` is of the
    prompt that was planned for,
    `bubble` the stages' idle share of the time, on average. `decode` and `prefill` are what one
    sequence is made of, for inference.
    """

    bubble: float
    bottleneck: Busiest
    tokens_per_s: float | None = None
    ttft_s: float | None = None
    step_s: float | None = None
    decode: Phase | None = None
    prefill: Phase | None = None


def draft_cost(predicted: Prediction, rows: float) -> float:
    """What a further row adds to a frame of one, as a share of it, where a chunk has so many rows.

    0 where nothing is known of it.
    """
    if predicted.decode is None or predicted.prefill is None or rows <= 1:
        return 0.0
    one_s, chunk_s = sum(predicted.decode.stage_s), sum(predicted.prefill.stage_s)
    return max(0.0, chunk_s / one_s - 1) / (rows - 1) if one_s > 0 else 0.0


def figure_s(objective: Objective, predicted: Prediction) -> float:
    """The objective's figure in seconds, of which less is better: a token's for rates."""
    match objective:
        case Objective.TRAIN:
            found = predicted.step_s
        case Objective.PREFILL:
            found = predicted.ttft_s
        case Objective.LATENCY | Objective.THROUGHPUT:
            found = 1 / predicted.tokens_per_s if predicted.tokens_per_s else 0.0
        case _:
            assert_never(objective)
    assert found is not None, "a prediction holds its objective's figure"
    return found


def predict(asked: Asked, outcome: Outcome) -> Prediction:
    """What the outcome's simulation says; of inference, decode and prefill both."""
    busiest = outcome.simulation.bottleneck
    found = Prediction(
        bubble=outcome.bubble, bottleneck=Busiest(kind=busiest.kind, where=busiest.where)
    )
    if outcome.case.setting.objective is Objective.TRAIN:
        return replace(found, step_s=outcome.seconds)
    placement, codecs = outcome.placement, outcome.case.codecs
    decode = phase(asked, placement, codecs, Objective.LATENCY)
    prefill = phase(asked, placement, codecs, Objective.PREFILL)
    grouped = outcome.case.setting.objective is Objective.THROUGHPUT
    return replace(
        found,
        tokens_per_s=_per_s(outcome.seconds if grouped else decode.seconds),
        ttft_s=prefill.seconds,
        decode=decode,
        prefill=prefill,
    )


def phase(asked: Asked, placement: Placement, codecs: Table | None, objective: Objective) -> Phase:
    """One sequence: decode for `latency`, the prompt for `prefill`."""
    setting = Setting(objective=objective, num_chunks=asked.work.num_chunks)
    played = play(asked, pose(asked, setting, codecs), placement)
    asking_s = asked.asking_s if objective is Objective.PREFILL else 0.0
    return Phase(
        seconds=played.seconds + asking_s,
        num_frames=setting.num_chunks if objective is Objective.PREFILL else 1,
        stage_s=played.cost.stage_s,
        hops_s=sum(played.cost.hop_s) + played.cost.return_s,
    )


def streams_per_s(
    asked: Asked,
    placement: Placement,
    codecs: Table | None = None,
    *,
    num_groups: int,
    num_streams: int,
) -> float:
    """Tokens per second of so many streams at once, spread over at most so many groups."""
    groups = min(num_groups, num_streams)
    setting = Setting(
        objective=Objective.THROUGHPUT, num_groups=groups, group_size=-(-num_streams // groups)
    )
    simulated = infer(pose(asked, setting, codecs).problem, placement)
    return num_streams / (groups * simulated.seconds)


def _per_s(seconds: float) -> float | None:
    return 1 / seconds if seconds > 0 else None
