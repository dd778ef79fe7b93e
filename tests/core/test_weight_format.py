"""What matrices take in each format, and what a stage of them takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import llama

from edgepipe.core.fit import Workload, stage_memory
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.stage_bytes import stage_bytes_of
from edgepipe.core.weight_format import WeightFormat

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1.125, "int4": 0.75}


def workload(weight_format: WeightFormat | None) -> Workload:
    return Workload(
        dtype=DType.FLOAT32,
        num_slots=2,
        max_positions=64,
        prefill_chunk=16,
        weight_format=weight_format,
    )


def with_matrices() -> ModelShape:
    """Of which the largest tensors are matrices."""
    model = llama()
    return replace(
        model, matrices=tuple(name for name, size in model.parameters.items() if size > 1 << 16)
    )


@pytest.mark.parametrize("weight_format", WeightFormat)
def test_a_block_takes_its_values_and_what_scales_them(weight_format: WeightFormat) -> None:
    assert weight_format.bytes_of(32) == 32 * BYTES[weight_format]


def test_a_part_of_a_byte_is_a_byte() -> None:
    assert WeightFormat.INT4.bytes_of(1) == 1


def test_the_head_is_never_rounded_to_four_bits() -> None:
    assert WeightFormat.INT4.of_head is WeightFormat.INT8
    model = with_matrices()
    ends = [
        model.weight_bytes((model.head,), DType.FLOAT32, each)
        for each in (WeightFormat.INT4, WeightFormat.INT8)
    ]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("weight_format", [None, *WeightFormat])
def test_tables_of_all_stages_say_what_each_stage_says(weight_format: WeightFormat | None) -> None:
    model, work = with_matrices(), workload(weight_format)
    table = stage_bytes_of(model, work)
    layers = model.num_layers
    for first, end in ((0, 1), (0, layers), (3, 9), (layers - 1, layers)):
        items = model.items(first, end, embedding=first == 0, head=end == layers)
        assert table[first, end] == stage_memory(model, items, work).total_bytes


def test_quantized_weights_share_nothing_and_leave_the_table_of_the_embedding() -> None:
    model = with_matrices()
    whole = model.items(0, model.num_layers, embedding=True, head=True)
    parts = [model.weight_bytes((item,), DType.FLOAT32, WeightFormat.INT8) for item in whole]
    assert model.weight_bytes(whole, DType.FLOAT32, WeightFormat.INT8) == sum(parts)
    assert parts[0] == model.weight_bytes((model.embedding,), DType.FLOAT32)
    assert parts[1] < model.weight_bytes((whole[1],), DType.FLOAT32) / 3
