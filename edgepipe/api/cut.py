"""How a program wants a model cut: the commands' options, as keywords."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import StrEnum
from typing import TypedDict, TypeVar

from edgepipe.coordinator.planning import How
from edgepipe.core.drafting import DEFAULT_DRAFTS
from edgepipe.core.frame import Codec, DType
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Objective, Strategy
from edgepipe.errors import UsageError

Choice = TypeVar("Choice", bound=StrEnum)

AUTO = "auto"
ENGINES = ("torch", "onnx")
FLOATS = (DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16)


class Cut(TypedDict, total=False):
    """What is left out, or "auto", is chosen. Words are those of the commands' options.

    EDGEPIPE_ENGINE and EDGEPIPE_WEIGHTS count where nothing is said.
    """

    strategy: str
    stages: int
    nodes: Sequence[str]
    split: Sequence[int]
    dtype: str
    weights: str
    codec: str
    engine: str
    fresh_profile: bool


def how_of(cut: Cut, objective: str, *, local: int | None) -> How:
    """How to plan. All `local` private agents are used. Raises UsageError."""
    if unknown := cut.keys() - Cut.__annotations__.keys():
        raise UsageError(
            f"there is no option {min(unknown)!r}: it is one of {', '.join(Cut.__annotations__)}"
        )
    stages = cut.get("stages", local)
    if stages is not None and stages < 1:
        raise UsageError(f"stages is {stages}, which makes no pipeline: ask for at least 1")
    if local not in {None, stages}:
        raise UsageError(f"the cluster has {local} private agents: ask for as many stages")
    engine = cut.get("engine", os.environ.get("EDGEPIPE_ENGINE", AUTO))
    if engine not in {AUTO, *ENGINES}:
        raise UsageError(f"engine is one of auto, {', '.join(ENGINES)}, not {engine!r}")
    weights = _given(
        WeightFormat, cut.get("weights", os.environ.get("EDGEPIPE_WEIGHTS")), "weights"
    )
    return How(
        objective=one_of(Objective, objective, "objective"),
        strategy=_given(Strategy, cut.get("strategy"), "strategy"),
        num_stages=stages,
        nodes=tuple(cut["nodes"]) if "nodes" in cut else None,
        split=tuple(cut["split"]) if "split" in cut else None,
        dtype=_given(DType, cut.get("dtype"), "dtype", FLOATS),
        weight_formats=() if weights is None else (weights,),
        codec=_given(Codec, cut.get("codec"), "codec"),
        engine=None if engine == AUTO else engine,
        max_draft=DEFAULT_DRAFTS,
        fresh_profile=cut.get("fresh_profile", False),
    )


def one_of(
    kind: type[Choice], word: str, what: str, choices: Sequence[Choice] | None = None
) -> Choice:
    """The choice that a word names. Raises UsageError."""
    known = tuple(kind) if choices is None else choices
    if word not in known:
        raise UsageError(f"{what} is one of {', '.join(known)}, not {word!r}")
    return kind(word)


def _given(
    kind: type[Choice], word: str | None, what: str, choices: Sequence[Choice] | None = None
) -> Choice | None:
    if word is None or word == AUTO:
        return None
    return one_of(kind, word, what, choices)
