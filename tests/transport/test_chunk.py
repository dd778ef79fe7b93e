from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import rows

from edgepipe.errors import WireError
from edgepipe.transport import chunk
from edgepipe.transport.pieces import cut
from edgepipe.wire.v1 import frame_pb2


def message(frame):
    return next(cut(frame, lambda: 3, chunk.CHUNK_BYTES))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_384, 300_000])
def test_a_message_is_a_protobuf_that_anyone_can_parse(size):
    payload = bytes(size)
    fields = frame_pb2.Chunk(offset=5, credits=2, checksum=7)
    parsed = frame_pb2.Chunk.FromString(chunk.join(fields, memoryview(payload)))
    assert parsed.payload == payload
    assert (parsed.offset, parsed.credits, parsed.checksum) == (5, 2, 7)
    empty = frame_pb2.Chunk(prefix_bytes=parsed.prefix_bytes, offset=5, credits=2, checksum=7)
    assert parsed.prefix_bytes == empty.ByteSize()


def test_a_frame_is_a_protobuf_that_anyone_can_parse():
    frame = rows(3)
    parsed = frame_pb2.Chunk.FromString(message(frame))
    assert parsed.payload == frame.payload
    assert parsed.header.shape == [3, 16]
    assert parsed.header.spans[0].count == 3
    assert parsed.credits == 3


@given(st.binary(max_size=1000), st.integers(0, 2**32 - 1))
def test_split_undoes_join_without_a_copy(payload, checksum):
    joined = chunk.join(frame_pb2.Chunk(checksum=checksum), memoryview(payload))
    fields, view = chunk.split(joined)
    assert fields.checksum == checksum
    assert view == payload
    if payload:
        assert view.obj is joined


@given(st.data())
def test_a_cut_or_damaged_message_never_passes_unnoticed(data):
    whole = message(rows(2))
    cut_off = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        fields, payload = chunk.split(cut_off)
    except WireError:
        return
    assert not payload, "what was cut off is not taken for a payload"
    assert fields.header.payload_bytes == 128


@given(st.binary(max_size=200))
def test_noise_is_refused_or_is_a_chunk(noise):
    with suppress(WireError):
        chunk.split(noise)


@pytest.mark.parametrize(
    ("noise", "sentence"),
    [
        (b"", "not a chunk"),
        (b"\x0d\xff\xff\xff\x7f", "begins at 2147483647 of 5 bytes"),
        (b"\x0d\x07\x00\x00\x00\x1a\x50", "header of a chunk is damaged"),
        (b"\x0d\x05\x00\x00\x00\x7a", "how long"),
        (b"\x0d\x05\x00\x00\x00\x7a\x09abc", "9 bytes is cut off at 3"),
        (b"\x0d\x05\x00\x00\x00\x78\x01a", "no payload where it says"),
        (b"\x0d\x08\x00\x00\x00\x7a\x01a", "among its other fields"),
    ],
)
def test_what_is_wrong_is_said(noise, sentence):
    with pytest.raises(WireError, match=sentence):
        chunk.split(noise)
