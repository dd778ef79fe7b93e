"""A plan as a value: stages in pipeline order, and the document it is saved as.

embedding | layer 0 … 9 | layer 10 … 19 | layer 20 … 29 | head
└──────── stage 0 ─────┘ └── stage 1 ──┘ └──── stage 2 ──────┘
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from edgepipe.core import record
from edgepipe.core.fit import Shortage
from edgepipe.core.frame import Codec
from edgepipe.core.inputs import Inputs
from edgepipe.core.prediction import Prediction
from edgepipe.core.work import Objective, Strategy
from edgepipe.errors import PlanError

__all__ = ["LeftOut", "Objective", "Plan", "Rival", "Stage", "Strategy", "stage_to_json"]

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Layers [first, end) on a device, and what they take of its memory.

    `memory_bytes` is all that the worker will hold: baseline, weights, KV cache, workspace and, in
    training, the `inflight` microbatches. `forward_s` and `backward_s` are predicted seconds per
    frame; `codec_forward` is of what it sends downstream, on the last stage home, and
    `codec_backward` of what it sends up.
    """

    node: str
    device: str
    first: int
    end: int
    embedding: bool
    head: bool
    memory_bytes: int
    memory_limit_bytes: int
    baseline_bytes: int
    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int
    inflight_bytes: int = 0
    forward_s: float = 0.0
    backward_s: float = 0.0
    codec_forward: Codec = Codec.NONE
    codec_backward: Codec | None = None
    inflight: int = 1
    predicted_busy: float = 0.0
    engine: str = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A device that the plan does not use, and why.

    `gain` is how much faster the plan is without it, as a share, if known.
    """

    node: str
    device: str
    reason: str
    gain: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """What another strategy comes to; without a prediction where it does not fit."""

    strategy: Strategy
    feasible: bool
    short_by_bytes: int
    predicted: Prediction | None
    stages: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Stages in pipeline order; infeasible where memory is short, and then by how much.

    No plan is better than an exact one by more than the share `gap`, by the stated cost model.
    """

    model: str
    objective: Objective
    strategy: Strategy
    feasible: bool
    short_by_bytes: int
    microbatches: int
    recompute: bool
    num_groups: int
    gap: float
    stages: tuple[Stage, ...]
    left_out: tuple[LeftOut, ...]
    shortages: tuple[Shortage, ...]
    predicted: Prediction | None
    rivals: tuple[Rival, ...]
    inputs: Inputs

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.stages[-1].end

    def to_json(self) -> dict[str, Any]:
        """The document that `edgepipe plan --json` prints and `--save` writes."""
        document = {"schema": SCHEMA, **record.to_json(self)}
        document["stages"] = [stage_to_json(stage) for stage in self.stages]
        document["rivals"] = [
            {**record.to_json(rival), "stages": [stage_to_json(stage) for stage in rival.stages]}
            for rival in self.rivals
        ]
        return document

    @classmethod
    def from_json(cls, document: Any) -> Self:
        """The plan that `to_json` wrote. Raises PlanError for anything else."""
        try:
            found = record.from_json(cls, _flattened(document))
            _check_pipeline(found.stages)
            _check_codecs(found.stages)
        except ValueError as error:
            raise PlanError(f"this is not a plan that edgepipe saved: {error}") from error
        return found

    @classmethod
    def loads(cls, text: str) -> Self:
        """The plan in the text of a saved file. Raises PlanError where it holds none."""
        try:
            document = json.loads(text)
        except json.JSONDecodeError as error:
            raise PlanError(f"this is not a plan that edgepipe saved: {error}") from error
        return cls.from_json(document)


def stage_to_json(stage: Stage) -> dict[str, Any]:
    """A stage as it is shown everywhere: `layers: [first, end)` and the rest."""
    data = record.to_json(stage)
    layers = [data.pop("first"), data.pop("end")]
    return {"node": data.pop("node"), "device": data.pop("device"), "layers": layers, **data}


def _flattened(document: Any) -> dict[str, Any]:
    """The document with `first` and `end` in place of each stage's `layers`, also of rivals."""
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    rivals = document.get("rivals")
    if not isinstance(rivals, list) or not all(isinstance(rival, Mapping) for rival in rivals):
        raise ValueError("its rivals are not a list of objects")
    return {
        **_with_stages(document),
        "rivals": [_with_stages(rival) for rival in rivals],
    }


def _with_stages(document: Mapping[str, Any]) -> dict[str, Any]:
    stages = document.get("stages")
    if not isinstance(stages, list):
        raise ValueError("its stages are not a list")  # noqa: TRY004
    return {**document, "stages": [_flattened_stage(stage) for stage in stages]}


def _flattened_stage(stage: Any) -> dict[str, Any]:
    match stage:
        case {"layers": [int(first), int(end)]}:
            return {**stage, "first": first, "end": end}
        case _:
            raise ValueError("a stage's layers are not [first, end]")


def _check_pipeline(stages: Sequence[Stage]) -> None:
    """Raises ValueError unless the stages make one pipeline from the embedding to the head."""
    joined = all(before.end == after.first for before, after in pairwise(stages))
    ordered = all(stage.first <= stage.end for stage in stages)
    if not stages or stages[0].first != 0 or not joined or not ordered:
        raise ValueError("its stages do not follow one another from layer 0 on")
    ends = [(stage.embedding, stage.head) for stage in stages]
    if ends != [(at == 0, at == len(stages) - 1) for at in range(len(stages))]:
        raise ValueError("its embedding is not on the first stage alone, or its head on the last")


def _check_codecs(stages: Sequence[Stage]) -> None:
    """Raises ValueError for a codec that ruins gradients."""
    if any(stage.codec_backward is Codec.INT4 for stage in stages):
        raise ValueError("its gradients would travel as int4, which is for activations alone")
