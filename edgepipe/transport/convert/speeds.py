"""What was measured of a device, and of a link."""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.core.frame import Codec
from edgepipe.core.measured import Items, Measured, Measurement
from edgepipe.core.speed import CodecSpeed, Curve, ItemSpeed
from edgepipe.errors import WireError
from edgepipe.transport.convert.bounds import few, text
from edgepipe.transport.convert.frames import (
    codec_from_wire,
    codec_to_wire,
    dtype_from_wire,
    dtype_to_wire,
    weight_format_from_wire,
    weight_format_to_wire,
)
from edgepipe.wire.v1 import stage_pb2

MAX_POINTS = 64
MAX_LAYERS = 1 << 12
MAX_CODECS = 16
MAX_SECONDS = 1e6
MAX_BYTES_PER_S = 1e15


def measurement_to_wire(asked: Measurement) -> stage_pb2.ProfileRequest:
    """What to measure."""
    return stage_pb2.ProfileRequest(
        dtype=dtype_to_wire(asked.dtype),
        num_slots=asked.num_slots,
        max_positions=asked.max_positions,
        prefill_chunk=asked.prefill_chunk,
        sequence_length=asked.sequence_length,
        rank=asked.rank,
        memory_bytes=asked.memory_bytes,
        engine=asked.engine,
        weight_format=weight_format_to_wire(asked.weight_format),
        offsets=asked.offsets,
    )


def measurement_from_wire(wire: stage_pb2.ProfileRequest) -> Measurement:
    """What to measure; its numbers are bounded elsewhere."""
    return Measurement(
        dtype=dtype_from_wire(wire.dtype),
        num_slots=wire.num_slots,
        max_positions=wire.max_positions,
        prefill_chunk=wire.prefill_chunk,
        sequence_length=wire.sequence_length,
        rank=wire.rank,
        memory_bytes=wire.memory_bytes,
        engine=text(wire.engine),
        weight_format=weight_format_from_wire(wire.weight_format),
        offsets=wire.offsets,
    )


def measured_to_wire(measured: Measured) -> stage_pb2.Profiled:
    """What was measured of a device."""
    items = measured.items
    return stage_pb2.Profiled(
        kinds=items.kinds,
        layers=[_item_to_wire(layer) for layer in items.layers],
        embedding=_item_to_wire(items.embedding),
        head=_item_to_wire(items.head),
        codecs=[_codec_to_wire(name, speed) for name, speed in measured.codecs.items()],
        overhead_s=measured.overhead_s,
    )


def measured_from_wire(wire: stage_pb2.Profiled) -> Measured:
    """What was measured of a device. Raises WireError for what cannot be."""
    try:
        return Measured(
            items=Items(
                kinds=tuple(few(wire.kinds, MAX_LAYERS, "layers")),
                layers=tuple(
                    _item_from_wire(each) for each in few(wire.layers, MAX_LAYERS, "kinds")
                ),
                embedding=_item_from_wire(wire.embedding),
                head=_item_from_wire(wire.head),
            ),
            codecs=_codecs_from_wire(few(wire.codecs, MAX_CODECS, "codecs")),
            overhead_s=seconds(wire.overhead_s),
        )
    except ValueError as error:
        raise WireError(f"a measurement arrived that cannot be: {error}") from None


def _item_to_wire(item: ItemSpeed) -> stage_pb2.ItemSpeed:
    return stage_pb2.ItemSpeed(
        decode=_curve_to_wire(item.decode),
        prefill=_curve_to_wire(item.prefill),
        forward=_curve_to_wire(item.forward),
        backward=_curve_to_wire(item.backward),
        attention_s=item.attention_s,
        prefill_attention_s=item.prefill_attention_s,
        update_s=item.update_s,
    )


def _item_from_wire(wire: stage_pb2.ItemSpeed) -> ItemSpeed:
    return ItemSpeed(
        decode=_curve_from_wire(wire.decode),
        prefill=_curve_from_wire(wire.prefill),
        forward=_curve_from_wire(wire.forward),
        backward=_curve_from_wire(wire.backward),
        attention_s=seconds(wire.attention_s),
        prefill_attention_s=seconds(wire.prefill_attention_s),
        update_s=seconds(wire.update_s),
    )


def _curve_to_wire(curve: Curve) -> stage_pb2.Curve:
    return stage_pb2.Curve(rows=curve.rows, seconds=curve.seconds)


def _curve_from_wire(wire: stage_pb2.Curve) -> Curve:
    rows = few(wire.rows, MAX_POINTS, "points of a curve")
    points = few(wire.seconds, MAX_POINTS, "points of a curve")
    return Curve(rows=tuple(rows), seconds=tuple(seconds(each) for each in points))


def _codec_to_wire(name: str, speed: CodecSpeed) -> stage_pb2.CodecSpeed:
    return stage_pb2.CodecSpeed(
        codec=codec_to_wire(Codec(name)),
        encode_s=speed.encode_s,
        decode_s=speed.decode_s,
        encode_call_s=speed.encode_call_s,
        decode_call_s=speed.decode_call_s,
    )


def _codecs_from_wire(wires: Sequence[stage_pb2.CodecSpeed]) -> dict[str, CodecSpeed]:
    return {
        codec_from_wire(wire.codec).value: CodecSpeed(
            encode_s=seconds(wire.encode_s),
            decode_s=seconds(wire.decode_s),
            encode_call_s=seconds(wire.encode_call_s),
            decode_call_s=seconds(wire.decode_call_s),
        )
        for wire in wires
    }


def rate(value: float, *, least: float = 1.0) -> float:
    """Bytes per second of a link. Raises WireError for what no link carries."""
    if not least <= value <= MAX_BYTES_PER_S:
        raise WireError(f"{value} bytes/s were measured, {least:g} to {MAX_BYTES_PER_S:g} can be")
    return value


def seconds(value: float) -> float:
    """Seconds of a measurement. Raises WireError for what cannot be."""
    if not 0 <= value <= MAX_SECONDS:
        raise WireError(f"{value} s were measured, 0 to {MAX_SECONDS:g} can be")
    return value
