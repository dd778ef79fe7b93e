"""What training takes of a stage's memory, against sums that a person can follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from on_paper import llama

from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.training_fit import LIBRARY_BYTES, Footprint, held_bytes, inflight_bytes
from edgepipe.core.work import Batch, TrainMode

ROWS, RANK, HIDDEN, WIDTH, KV, VOCAB = 24, 4, 64, 160, 32, 500


def footprint(
    *,
    mode: TrainMode = TrainMode.LORA,
    dtype: DType = DType.BFLOAT16,
    recompute: bool = False,
    tied: bool = False,
) -> Footprint:
    model = llama(num_layers=4, hidden=HIDDEN, width=WIDTH, kv=KV, vocab=VOCAB, tied=tied)
    return Footprint(
        model=model,
        dtype=dtype,
        batch=Batch(mode=mode, sequences=2, sequence_length=12, rank=RANK),
        rows=ROWS,
        recompute=recompute,
    )


def matrices(model: ModelShape) -> int:
    """Adapter parameters of a layer: rank · (rows + columns) of each of its matrices."""
    del model
    columns = [HIDDEN, KV, KV, HIDDEN, WIDTH, WIDTH, WIDTH]
    return sum(RANK * (HIDDEN + each) for each in columns)


def parameters(model: ModelShape, first: int, end: int) -> int:
    items = model.items(first, end, embedding=first == 0, head=end == model.num_layers)
    return sum(model.parameters[name] for name in model.tensors(items))


def worked_on(bytes_per_row: int) -> int:
    """With holes as large as itself: a tensor of 24 rows is far smaller than 1 MiB."""
    return ROWS * bytes_per_row * 2


def in_flight(bytes_per_row: int) -> int:
    """With the holes around it."""
    return round(ROWS * bytes_per_row * 1.2)


def expected(asked: Footprint, first: int, end: int) -> tuple[int, int]:
    """Held, and of each microbatch in flight."""
    model, size = asked.model, asked.dtype.itemsize
    embedding, head = first == 0, end == model.num_layers
    count, layers = parameters(model, first, end), end - first
    activations = (8 * HIDDEN + 4 * WIDTH) * size
    gradients = (2 * HIDDEN + 3 * WIDTH) * size if asked.recompute else 0
    one_input = in_flight(HIDDEN * size)
    foreign = VOCAB * HIDDEN if asked.model.tied and embedding and not head else 0
    states = {
        TrainMode.LORA: 16 * layers * matrices(model),
        TrainMode.FULL: count * (12 + (4 if size < 4 else 0)) - 12 * foreign,
    }[asked.batch.mode]
    logits = 2 * ROWS * VOCAB * 4 if head else 0
    held = count * size + states + worked_on(activations + gradients) + logits
    kept = layers * (one_input if asked.recompute else in_flight(activations))
    return (20 << 20) + held, kept + (embedding + head) * one_input


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recompute", [True, False])
@pytest.mark.parametrize("dtype", [DType.BFLOAT16, DType.FLOAT32])
@pytest.mark.parametrize("mode", TrainMode)
def test_every_stage_holds_what_the_formula_says(
    mode: TrainMode, dtype: DType, recompute: bool, tied: bool
) -> None:
    asked = footprint(mode=mode, dtype=dtype, recompute=recompute, tied=tied)
    held, flying = held_bytes(asked), inflight_bytes(asked)
    for first in range(5):
        for end in range(5):
            wanted = expected(asked, first, end) if first < end else (0, 0)
            assert (held[first, end], flying[first, end]) == wanted, (first, end)


def test_large_tensors_leave_no_holes() -> None:
    small, large = (
        replace(footprint(dtype=DType.FLOAT32), rows=rows) for rows in ((1 << 12) - 1, 1 << 12)
    )
    layer = small.model.layers[0]
    each = (8 * HIDDEN + 4 * WIDTH) * 4
    assert small.inflight_bytes(layer) == round(small.rows * each * 1.2)
    assert small.working_bytes(layer) == small.rows * each * 2
    assert large.inflight_bytes(layer) == large.working_bytes(layer) == large.rows * each


def test_computing_again_saves_memory_of_microbatches_in_flight_alone() -> None:
    kept, again = (footprint(recompute=recompute) for recompute in (False, True))
    assert (held_bytes(kept) <= held_bytes(again)).all()
    assert inflight_bytes(again)[0, 4] < inflight_bytes(kept)[0, 4] / 5


def test_lora_takes_far_less_than_full() -> None:
    lora, full = (held_bytes(footprint(mode=mode))[0, 4] - LIBRARY_BYTES for mode in TrainMode)
    assert lora < full / 2
