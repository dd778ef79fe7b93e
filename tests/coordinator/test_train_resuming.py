"""A run that is resumed keeps its plan, unless something else is asked for now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from on_paper import llama, machine, surveyed

from edgepipe.coordinator.planning import How, make_plan
from edgepipe.coordinator.train_resuming import keeping_plan
from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode

MODEL = llama(num_layers=4)
BATCH = Batch(mode=TrainMode.LORA, sequences=4, sequence_length=32)
HOW = How(
    objective=Objective.TRAIN,
    num_stages=2,
    nodes=("ada", "bob"),
    dtype=DType.FLOAT32,
    codec=Codec.NONE,
    batch=BATCH,
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    survey = surveyed(MODEL, [machine("ada"), machine("bob")])
    return make_plan(MODEL, survey, HOW, 32)


@pytest.fixture
def run(plan: Plan, tmp_path: Path) -> Path:
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    return tmp_path


KEEPING: dict[str, dict[str, Any]] = {
    "the same": {},
    "less": {"num_stages": None, "nodes": None, "dtype": None, "codec": None},
    "its strategy": {"strategy": Strategy.EXACT},
}
CHANGING: dict[str, dict[str, Any]] = {
    "stages": {"num_stages": 1, "nodes": None},
    "nodes": {"nodes": ("bob", "ada")},
    "a strategy": {"strategy": Strategy.EQUAL},
    "a codec": {"codec": Codec.INT8},
    "a codec of gradients": {"codec_backward": Codec.INT8},
    "a type": {"dtype": DType.BFLOAT16},
    "recomputation": {"batch": replace(BATCH, recompute=True)},
    "microbatches": {"batch": replace(BATCH, microbatches=2)},
    "longer sequences": {"batch": replace(BATCH, longest=64)},
}


@pytest.mark.parametrize("changes", KEEPING.values(), ids=KEEPING.keys())
def test_the_plan_is_kept(run: Path, plan: Plan, changes: dict[str, Any]) -> None:
    assert keeping_plan(replace(HOW, **changes), run, MODEL).preferred == plan


@pytest.mark.parametrize("changes", CHANGING.values(), ids=CHANGING.keys())
def test_what_is_asked_for_is_planned(run: Path, changes: dict[str, Any]) -> None:
    how = replace(HOW, **changes)
    assert keeping_plan(how, run, MODEL) == how


def test_its_own_split_keeps_it_and_another_does_not(run: Path, plan: Plan) -> None:
    (cut,) = (stage.first for stage in plan.stages[1:])
    assert keeping_plan(replace(HOW, split=(cut,)), run, MODEL).preferred == plan
    assert keeping_plan(replace(HOW, split=(cut % 3 + 1,)), run, MODEL).preferred is None


@pytest.mark.parametrize("other", [llama(num_layers=5), llama(num_layers=4, name="another")])
def test_a_plan_of_another_model_is_not_kept(run: Path, other: ModelShape) -> None:
    assert keeping_plan(HOW, run, other) == HOW


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"schema": 1}'])
def test_a_plan_that_cannot_be_read_is_made_anew(tmp_path: Path, text: str) -> None:
    assert keeping_plan(HOW, tmp_path, MODEL) == HOW
    (tmp_path / "plan.json").write_text(text)
    assert keeping_plan(HOW, tmp_path, MODEL) == HOW
