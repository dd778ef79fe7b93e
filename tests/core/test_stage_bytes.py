"""The tables of what stages take, against the sums for one stage."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from on_paper import llama

from edgepipe.core.fit import Workload, stage_memory
from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.stage_bytes import largest_over, parameters_of, stage_bytes_of, sums_over

WORKLOAD = Workload(dtype=DType.BFLOAT16, num_slots=4, max_positions=64, prefill_chunk=16)


def check(model: ModelShape, workload: Workload = WORKLOAD) -> None:
    """Every range of layers takes what `stage_memory` says of its items."""
    table, parameters = stage_bytes_of(model, workload), parameters_of(model)
    num = model.num_layers
    for first in range(num + 1):
        for end in range(num + 1):
            items = model.items(first, end, embedding=first == 0, head=end == num)
            memory = stage_memory(model, items, workload)
            expected = memory.total_bytes if first < end else 0
            assert table[first, end] == expected, (first, end)
            held = memory.weight_bytes // workload.dtype.itemsize if first < end else 0
            assert parameters[first, end] == held, (first, end)


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_embedding_counts_once_on_a_stage_with_both_and_again_with_the_head(
    tied: bool,
) -> None:
    check(llama(num_layers=5, tied=tied))


def shared_at_random(seed: int) -> ModelShape:
    """Layers of any sizes, some of which hold the same tensors."""
    rng = Random(seed)
    num, names = rng.randint(1, 7), [f"t{at}" for at in range(6)]
    parameters = {name: 8 * rng.randint(1, 50) for name in [*names, "embed", "lm_head"]}

    def item(name: str, tensors: tuple[str, ...]) -> Item:
        return Item(
            name=name,
            tensors=tensors,
            num_parameters=0,
            flops_per_token=rng.choice([0, 16, 10**6]),
            kv_values_per_token=rng.randint(0, 5),
        )

    layers = tuple(item(f"{at}", tuple(rng.sample(names, rng.randint(0, 3)))) for at in range(num))
    head = ("embed",) if rng.random() < 0.5 else ("lm_head", rng.choice(names))
    return replace(
        llama(num_layers=num),
        hidden_size=8,
        vocab_size=100,
        embedding=item("embedding", ("embed",)),
        layers=layers,
        head=item("head", head),
        parameters=parameters,
    )


@given(
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([DType.BFLOAT16, DType.FLOAT32]),
    num_slots=st.integers(1, 9),
    chunk=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_tensors_that_layers_share_count_once_per_stage(
    seed: int, dtype: DType, num_slots: int, chunk: int
) -> None:
    workload = Workload(dtype=dtype, num_slots=num_slots, max_positions=32, prefill_chunk=chunk)
    check(shared_at_random(seed), workload)


def test_sums_hold_the_ends_items_where_a_stage_reaches_them() -> None:
    #        embedding, layers, head
    table = sums_over(3, [100, 1, 2, 3, 1000])
    assert table[0].tolist() == [0, 101, 103, 1106]
    assert table[1].tolist() == [0, 0, 2, 1005]
    assert not np.tril(table).any()


def test_the_largest_is_of_layers_alone() -> None:
    assert largest_over(3, [1, 3, 2]).tolist() == [
        [0, 1, 3, 3],
        [0, 0, 3, 3],
        [0, 0, 0, 2],
        [0, 0, 0, 0],
    ]
