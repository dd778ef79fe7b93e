from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch

from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import Engine, Loaded, StageSpec
from edgepipe.engine.emulated import EmulatedEngine
from edgepipe.errors import ModelError

SPANS = [Span(slot=1, start=0, count=3), Span(slot=0, start=9, count=1)]
ROWS = torch.zeros(4, 6)


def load(*, head: bool = False, dtype: DType = DType.FLOAT32, **options: Any) -> Engine:
    engine = EmulatedEngine()
    spec = StageSpec(
        config={},
        first=0,
        end=1,
        embedding=not head,
        head=head,
        dtype=dtype,
        num_slots=2,
        max_positions=32,
        options={"forward_s": 0, "hidden_size": 6, "vocab_size": 8, **options},
    )
    calls: list[tuple[int, int]] = []
    loaded = engine.load(spec, lambda done, total: calls.append((done, total)))
    assert (loaded, calls) == (Loaded(weight_bytes=0, kv_bytes=0), [(0, 0)])
    return engine


@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16])
def test_a_stage_gives_a_row_of_real_bytes_per_token(dtype: DType) -> None:
    rows = load(dtype=dtype).forward(SPANS, torch.zeros(4, dtype=torch.int64))
    assert (rows.shape, str(rows.dtype)) == ((4, 6), f"torch.{dtype}")


def test_the_last_stage_gives_a_row_of_logits_per_span_and_counts_positions_up() -> None:
    logits = load(head=True).forward(SPANS, ROWS)
    assert (logits.shape, logits.dtype) == ((2, 8), torch.float32)
    assert logits.argmax(-1).tolist() == [2, 9 % 8]


def test_it_gives_the_logits_of_every_row_where_they_are_wanted() -> None:
    logits = load(head=True).forward(SPANS, ROWS, all_logits=True)
    assert logits.argmax(-1).tolist() == [0, 1, 2, 1]


def test_a_frame_takes_as_long_as_it_is_told() -> None:
    engine = load(forward_s=0.05)
    begin, processor = time.perf_counter(), time.thread_time()
    engine.forward(SPANS, ROWS)
    assert time.perf_counter() - begin >= 0.05
    assert time.thread_time() - processor < 0.04, "asleep, not spinning"


def test_there_is_nothing_to_move_and_nothing_to_free() -> None:
    engine = load()
    keys, values = engine.export_state(0)
    assert keys.numel() == values.numel() == 0
    engine.import_state(1, keys, values)
    engine.unload()
    with pytest.raises(AssertionError):
        engine.forward(SPANS, ROWS)


@pytest.mark.parametrize("forward_s", [-0.001, 60.1, math.nan, math.inf, "1", None])
def test_a_time_out_of_bounds_is_refused(forward_s: Any) -> None:
    with pytest.raises(ModelError, match=r"^an emulated stage takes 0 to 60 s a frame, not"):
        load(forward_s=forward_s)


@pytest.mark.parametrize("name", ["hidden_size", "vocab_size"])
@pytest.mark.parametrize("size", [0, -1, (1 << 24) + 1, 2.5, "8", None])
def test_a_size_out_of_bounds_is_refused_before_anything_is_allocated(name: str, size: Any) -> None:
    with pytest.raises(ModelError, match=rf"^an emulated stage has a {name} of 1 to 16777216, not"):
        load(**{name: size})
