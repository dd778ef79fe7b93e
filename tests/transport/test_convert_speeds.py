"""What was measured comes back as it was, and nothing that cannot be measured comes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgepipe.core.frame import DType
from edgepipe.core.measured import Items, Measured, Measurement
from edgepipe.core.speed import CodecSpeed, Curve, ItemSpeed
from edgepipe.errors import WireError
from edgepipe.transport import convert
from edgepipe.transport.convert.speeds import MAX_LAYERS, MAX_POINTS, rate
from edgepipe.wire.v1 import stage_pb2

LAYER = ItemSpeed(
    decode=Curve(rows=(1, 2), seconds=(0.1, 0.15)),
    prefill=Curve(rows=(1, 16, 128), seconds=(0.1, 0.3, 2.0)),
    forward=Curve(rows=(512,), seconds=(8.0,)),
    backward=Curve(rows=(512,), seconds=(16.0,)),
    attention_s=1e-7,
    prefill_attention_s=2e-8,
    update_s=0.01,
)
MEASURED = Measured(
    items=Items(kinds=(0, 1, 0), layers=(LAYER, ItemSpeed()), embedding=ItemSpeed(), head=LAYER),
    codecs={
        "int8": CodecSpeed(encode_s=1e-9, decode_s=2e-9, encode_call_s=2e-4, decode_call_s=1e-4),
        "int4": CodecSpeed(encode_s=2e-9, decode_s=3e-9),
    },
    overhead_s=1e-3,
)


def test_what_was_measured_comes_back() -> None:
    assert convert.measured_from_wire(convert.measured_to_wire(MEASURED)) == MEASURED


def test_what_is_asked_for_comes_back() -> None:
    asked = Measurement(
        dtype=DType.BFLOAT16,
        num_slots=8,
        max_positions=2048,
        prefill_chunk=128,
        memory_bytes=1 << 33,
        sequence_length=512,
        rank=16,
        offsets=True,
    )
    assert convert.measurement_from_wire(convert.measurement_to_wire(asked)) == asked


def _negative(wire: stage_pb2.Profiled) -> None:
    wire.head.attention_s = -1e-9


def _endless(wire: stage_pb2.Profiled) -> None:
    wire.overhead_s = float("inf")


def _no_number(wire: stage_pb2.Profiled) -> None:
    wire.layers[0].decode.seconds[0] = float("nan")


def _falling(wire: stage_pb2.Profiled) -> None:
    wire.layers[0].decode.rows[1] = 1


def _uneven(wire: stage_pb2.Profiled) -> None:
    wire.layers[0].decode.rows.append(4)


def _of_no_kind(wire: stage_pb2.Profiled) -> None:
    wire.kinds[1] = 2


def _too_many_layers(wire: stage_pb2.Profiled) -> None:
    wire.kinds.extend([0] * MAX_LAYERS)


def _too_many_points(wire: stage_pb2.Profiled) -> None:
    wire.head.prefill.rows.extend(range(200, 200 + MAX_POINTS))


def _unknown_codec(wire: stage_pb2.Profiled) -> None:
    wire.codecs[0].codec = 99


@pytest.mark.parametrize(
    "spoil",
    [
        _negative,
        _endless,
        _no_number,
        _falling,
        _uneven,
        _of_no_kind,
        _too_many_layers,
        _too_many_points,
        _unknown_codec,
    ],
)
def test_what_cannot_be_is_refused(spoil: Callable[[stage_pb2.Profiled], None]) -> None:
    wire = convert.measured_to_wire(MEASURED)
    spoil(wire)
    with pytest.raises(WireError):
        convert.measured_from_wire(wire)


@pytest.mark.parametrize("bytes_per_s", [0.0, -1.0, 1e30, float("inf"), float("nan")])
def test_what_no_link_carries_is_refused(bytes_per_s: float) -> None:
    with pytest.raises(WireError, match="bytes/s were measured"):
        rate(bytes_per_s)
