"""Frame headers, and the closed sets in them."""

from __future__ import annotations

from typing import cast

from edgepipe.core.frame import (
    Codec,
    Direction,
    DType,
    FinishReason,
    Header,
    JobId,
    Likely,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.payload import payload_bytes
from edgepipe.core.weight_format import WeightFormat
from edgepipe.errors import WireError
from edgepipe.transport.convert.bounds import MAX_LIKELY, MAX_SPANS, few, member, shape, text
from edgepipe.wire.v1 import frame_pb2

_DTYPES = {
    DType.FLOAT32: frame_pb2.DTYPE_FLOAT32,
    DType.BFLOAT16: frame_pb2.DTYPE_BFLOAT16,
    DType.FLOAT16: frame_pb2.DTYPE_FLOAT16,
    DType.INT64: frame_pb2.DTYPE_INT64,
}
_CODECS = {
    Codec.NONE: frame_pb2.CODEC_NONE,
    Codec.BF16: frame_pb2.CODEC_BF16,
    Codec.INT8: frame_pb2.CODEC_INT8,
    Codec.INT4: frame_pb2.CODEC_INT4,
}
_WEIGHT_FORMATS = {
    None: frame_pb2.WEIGHT_FORMAT_UNSPECIFIED,
    WeightFormat.FLOAT32: frame_pb2.WEIGHT_FORMAT_FLOAT32,
    WeightFormat.BFLOAT16: frame_pb2.WEIGHT_FORMAT_BFLOAT16,
    WeightFormat.FLOAT16: frame_pb2.WEIGHT_FORMAT_FLOAT16,
    WeightFormat.INT8: frame_pb2.WEIGHT_FORMAT_INT8,
    WeightFormat.INT4: frame_pb2.WEIGHT_FORMAT_INT4,
}
_DIRECTIONS = {
    Direction.FORWARD: frame_pb2.DIRECTION_FORWARD,
    Direction.BACKWARD: frame_pb2.DIRECTION_BACKWARD,
}
_FINISHES = {
    None: frame_pb2.FINISH_REASON_UNSPECIFIED,
    FinishReason.STOP: frame_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: frame_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: frame_pb2.FINISH_REASON_CANCELLED,
}
_FROM_DTYPE = {int(number): value for value, number in _DTYPES.items()}
_FROM_CODEC = {int(number): value for value, number in _CODECS.items()}
_FROM_WEIGHT_FORMAT = {int(number): value for value, number in _WEIGHT_FORMATS.items()}
_FROM_DIRECTION = {int(number): value for value, number in _DIRECTIONS.items()}
_FROM_FINISH = {int(number): value for value, number in _FINISHES.items()}


def dtype_to_wire(dtype: DType) -> frame_pb2.DType:
    """The wire's number of a dtype."""
    return _DTYPES[dtype]


def dtype_from_wire(number: int) -> DType:
    """The dtype of a number."""
    return member(_FROM_DTYPE, number, "dtype")


def codec_to_wire(codec: Codec) -> frame_pb2.Codec:
    """The wire's number of a codec."""
    return _CODECS[codec]


def codec_from_wire(number: int) -> Codec:
    """The codec of a number."""
    return member(_FROM_CODEC, number, "codec")


def weight_format_to_wire(weight_format: WeightFormat | None) -> frame_pb2.WeightFormat:
    """The wire's number of a weight format."""
    return _WEIGHT_FORMATS[weight_format]


def weight_format_from_wire(number: int) -> WeightFormat | None:
    """The weight format of a number; None: the dtype that is computed in."""
    return member(_FROM_WEIGHT_FORMAT, number, "weight format")


def fill_header(wire: frame_pb2.Header, header: Header) -> None:
    """Fill an empty message: all but the checksum, which travels with a frame's last chunk.

    Field by field, in place: built from arguments and then copied it takes twice as long.
    """
    wire.job = header.job
    wire.epoch = header.epoch
    wire.step = header.step
    wire.group = header.group
    for span in header.spans:
        wire.spans.add(slot=span.slot, start=span.start, count=span.count)
    wire.sequences.extend(header.sequences)
    wire.direction = _DIRECTIONS[header.direction]
    wire.shape.extend(header.shape)
    wire.dtype = _DTYPES[header.dtype]
    wire.codec = _CODECS[header.codec]
    wire.payload_bytes = header.payload_bytes
    wire.trace_id = header.trace_id
    wire.sampled.extend([sampled_to_wire(token) for token in header.sampled])
    wire.drafts.extend(header.drafts)


def header_from_wire(wire: frame_pb2.Header, *, checksum: int = 0, max_frame_bytes: int) -> Header:
    """A header whose payload is as long as codec, shape and dtype say, and not too long."""
    spans, sampled, sequences = wire.spans, wire.sampled, wire.sequences
    if len(spans) > MAX_SPANS or len(sampled) > MAX_SPANS or len(sequences) > MAX_SPANS:
        raise WireError(f"a frame names more than {MAX_SPANS} spans or tokens")
    header = Header(
        job=JobId(text(wire.job)),
        epoch=wire.epoch,
        step=wire.step,
        group=wire.group,
        spans=tuple([Span(slot=s.slot, start=s.start, count=s.count) for s in spans]),
        sequences=cast("tuple[SequenceId, ...]", tuple(sequences)),
        direction=member(_FROM_DIRECTION, wire.direction, "direction"),
        shape=shape(wire.shape),
        dtype=dtype_from_wire(wire.dtype),
        codec=codec_from_wire(wire.codec),
        payload_bytes=wire.payload_bytes,
        checksum=checksum,
        trace_id=wire.trace_id,
        sampled=tuple([sampled_from_wire(token) for token in sampled]) if sampled else (),
        drafts=tuple(few(wire.drafts, MAX_SPANS, "drafts")),
    )
    check_size(header, max_frame_bytes=max_frame_bytes)
    return header


def check_size(header: Header, *, max_frame_bytes: int) -> None:
    """Raise WireError unless the payload is as long as announced and may be as long as it is."""
    implied = payload_bytes(header.codec, header.shape, header.dtype)
    if header.payload_bytes != implied:
        raise WireError(
            f"a frame announces {header.payload_bytes} bytes, but its shape {header.shape} "
            f"as {header.dtype}/{header.codec} makes {implied}"
        )
    if implied > max_frame_bytes:
        raise WireError(f"a frame of {implied} bytes arrived, {max_frame_bytes} are allowed here")


def sampled_to_wire(token: SampledToken) -> frame_pb2.SampledToken:
    """One sampled token."""
    return frame_pb2.SampledToken(
        sequence=token.sequence,
        slot=token.slot,
        position=token.position,
        token=token.token,
        logprob=token.logprob,
        finish=_FINISHES[token.finish],
        likely=[frame_pb2.Likely(token=each.token, logprob=each.logprob) for each in token.likely],
    )


def sampled_from_wire(wire: frame_pb2.SampledToken) -> SampledToken:
    """One sampled token."""
    return SampledToken(
        sequence=SequenceId(wire.sequence),
        slot=wire.slot,
        position=wire.position,
        token=wire.token,
        logprob=wire.logprob if wire.HasField("logprob") else None,
        finish=member(_FROM_FINISH, wire.finish, "finish reason"),
        likely=tuple(
            [Likely(each.token, each.logprob) for each in few(wire.likely, MAX_LIKELY, "tokens")]
        ),
    )
