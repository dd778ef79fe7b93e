"""The points of a measurement, and what a device's speeds are made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgepipe.core.frame import Codec, DType
from edgepipe.core.measured import Items, Measured, Measurement
from edgepipe.core.speed import CodecSpeed, Curve, ItemSpeed

ASKED = Measurement(
    dtype=DType.FLOAT32, num_slots=1, max_positions=2048, prefill_chunk=128, memory_bytes=1 << 30
)


@pytest.mark.parametrize(
    ("num_slots", "rows"),
    [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8)), (100, (1, 2, 4, 8, 16, 32))],
)
def test_decoding_is_measured_up_to_a_row_per_slot(num_slots: int, rows: tuple[int, ...]) -> None:
    assert replace(ASKED, num_slots=num_slots).decode_rows == rows


@pytest.mark.parametrize(
    ("chunk", "rows"),
    [
        (1, (1,)),
        (8, (1, 8)),
        (100, (1, 16, 32, 64, 100)),
        (128, (1, 16, 32, 64, 128)),
        (9999, (1, 16, 32, 64, 128, 256, 512)),
    ],
)
def test_prefill_is_measured_up_to_a_chunk(chunk: int, rows: tuple[int, ...]) -> None:
    assert replace(ASKED, prefill_chunk=chunk).prefill_rows == rows


@pytest.mark.parametrize(
    ("max_positions", "near", "far"), [(2, 1, 1), (100, 64, 64), (1000, 64, 872), (4096, 64, 1024)]
)
def test_nothing_is_measured_beyond_the_context(max_positions: int, near: int, far: int) -> None:
    asked = replace(ASKED, max_positions=max_positions)
    assert (asked.near, asked.far) == (near, far)
    assert far == near or far + asked.prefill_rows[-1] <= max_positions


def test_a_device_has_a_speed_for_every_layer_of_a_kind() -> None:
    slow, fast = (ItemSpeed(decode=Curve.flat(seconds)) for seconds in (2.0, 1.0))
    items = Items(kinds=(0, 1, 1), layers=(slow, fast), embedding=ItemSpeed(), head=fast)
    speed = Measured(items=items, overhead_s=0.5).speed
    assert speed.items == (ItemSpeed(), slow, fast, fast, fast)
    assert speed.overhead_s == 0.5


def test_a_layer_of_a_kind_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="not measured"):
        Items(kinds=(0, 1), layers=(ItemSpeed(),), embedding=ItemSpeed(), head=ItemSpeed())


def test_a_codec_takes_its_time_however_few_the_values() -> None:
    speed = CodecSpeed(encode_s=2.0, decode_s=1.0, encode_call_s=10.0, decode_call_s=5.0)
    items = Items(kinds=(), layers=(), embedding=ItemSpeed(), head=ItemSpeed())
    device = Measured(items=items, codecs={"int8": speed}).speed
    assert device.codec_s(Codec.INT8, 3) == (16.0, 8.0)
