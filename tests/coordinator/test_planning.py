"""What a plan is computed in, where the user has not said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import llama, machine, surveyed

from edgepipe.coordinator.pinned import pinned_plan
from edgepipe.coordinator.planning import How, computing, make_plan
from edgepipe.core.candidates import Candidate
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Objective
from edgepipe.errors import PlanError

CPUS = (machine("attic"), machine("cellar"))
MIXED = (*CPUS, machine("desk", "cuda:0"))
INT8 = (WeightFormat.INT8,)


def shape(dtype: DType) -> ModelShape:
    return replace(llama(), dtype=dtype)


@pytest.mark.parametrize(
    ("how", "model", "devices", "dtype", "engines"),
    [
        (How(), DType.FLOAT32, CPUS, None, ("torch", "onnx")),
        (How(), DType.BFLOAT16, CPUS, None, ("torch",)),
        (How(weight_formats=INT8), DType.BFLOAT16, CPUS, DType.FLOAT32, ("torch", "onnx")),
        (How(weight_formats=INT8), DType.BFLOAT16, MIXED, None, ("torch", "onnx")),
        (How(engine="onnx"), DType.BFLOAT16, CPUS, DType.FLOAT32, ("onnx",)),
        (
            How(nodes=("attic", "cellar"), engine="onnx"),
            DType.BFLOAT16,
            MIXED,
            DType.FLOAT32,
            ("onnx",),
        ),
        (How(engine="torch"), DType.FLOAT32, CPUS, None, ("torch",)),
        (How(dtype=DType.BFLOAT16), DType.FLOAT32, CPUS, DType.BFLOAT16, ("torch",)),
        (How(objective=Objective.TRAIN), DType.FLOAT32, CPUS, None, ("torch",)),
    ],
)
def test_dtype_and_engines(
    how: How,
    model: DType,
    devices: tuple[Candidate, ...],
    dtype: DType | None,
    engines: tuple[str, ...],
) -> None:
    """ONNX Runtime computes in float32 on a CPU, and quantized weights are multiplied in it."""
    found = computing(how, shape(model), devices)
    assert found.dtype is dtype
    assert found.engines_for(found.work(shape(model), 64)) == engines


def test_a_plan_is_made_for_the_largest_format_of_all_stages() -> None:
    how = How(weight_formats=(WeightFormat.INT4, WeightFormat.FLOAT16, WeightFormat.INT8))
    assert how.weight_format is WeightFormat.FLOAT16
    assert How().weight_format is None


def test_a_plan_of_a_file_is_for_its_own_engine() -> None:
    model = llama(num_layers=4)
    saved = make_plan(model, surveyed(model, CPUS), How(), 64)
    for engine in (None, "torch"):
        assert pinned_plan(saved, model, 64, Objective.LATENCY, engine) is saved
    with pytest.raises(PlanError, match="made for the engine torch: leave out --engine, or plan"):
        pinned_plan(saved, model, 64, Objective.LATENCY, "onnx")
