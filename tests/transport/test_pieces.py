import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_frames import TOKENS, rows

from edgepipe.errors import WireError
from edgepipe.transport import chunk
from edgepipe.transport.pieces import Assembly, cut
from edgepipe.wire.v1 import frame_pb2

LIMIT = 1 << 20


def messages(frame, chunk_bytes=64):
    return list(cut(frame, lambda: 0, chunk_bytes))


def assemble(parts, limit=LIMIT):
    assembly = Assembly(max_frame_bytes=limit)
    return [assembly.add(*chunk.split(part)) for part in parts]


@given(st.integers(0, 40), st.integers(1, 300))
def test_a_frame_comes_back_whole_from_chunks_of_any_size(num_rows, chunk_bytes):
    frame = rows(num_rows, dim=3)
    *before, last = assemble(messages(frame, chunk_bytes))
    assert not any(before)
    assert last.payload == frame.payload
    assert last.header == frame.header._replace(checksum=zlib.crc32(frame.payload))


def test_a_frame_of_one_chunk_keeps_the_messages_memory_and_a_larger_one_is_writable():
    (part,) = messages(rows(1))
    assert assemble([part])[0].payload.obj is part
    assert not assemble(messages(rows(4)))[-1].payload.readonly


def test_a_frame_of_tokens_has_no_payload():
    (frame,) = assemble(messages(TOKENS))
    assert frame == TOKENS


def test_credits_ride_on_every_chunk():
    owed = iter([2, 0, 1, 0])
    parts = cut(rows(4), lambda: next(owed), 64)
    assert [chunk.split(part)[0].credits for part in parts] == [2, 0, 1, 0]


def test_a_flipped_bit_is_noticed():
    first, second, *rest = messages(rows(4))
    second = second[:-1] + bytes([second[-1] ^ 1])
    with pytest.raises(WireError, match="checksum does not match"):
        assemble([first, second, *rest])


@pytest.mark.parametrize("parts", [[1], [0, 2], [0, 0], [0, 1, 1]])
def test_chunks_out_of_order_are_refused(parts):
    cut_up = messages(rows(4))
    with pytest.raises(WireError, match="where"):
        assemble([cut_up[part] for part in parts])


def test_a_frame_may_not_grow_beyond_what_it_announced():
    first, second, third, _ = messages(rows(4))
    fields, _ = chunk.split(third)
    longer = chunk.join(fields, memoryview(bytes(200)))
    with pytest.raises(WireError, match="256 bytes goes on with 200 at 128"):
        assemble([first, second, longer])


def test_a_chunk_that_brings_nothing_is_refused():
    first, second, *_ = messages(rows(4))
    fields, _ = chunk.split(second)
    with pytest.raises(WireError, match="goes on with 0"):
        assemble([first, chunk.join(fields, memoryview(b""))])


def test_a_frame_larger_than_allowed_is_refused_before_it_is_allocated():
    header = frame_pb2.Header(
        shape=[2**30, 2**30],
        dtype=frame_pb2.DTYPE_FLOAT32,
        codec=frame_pb2.CODEC_NONE,
        direction=frame_pb2.DIRECTION_FORWARD,
        payload_bytes=2**62,
    )
    part = chunk.join(frame_pb2.Chunk(header=header), memoryview(b"x"))
    with pytest.raises(WireError, match=f"{LIMIT} are allowed"):
        assemble([part])


def test_a_frame_whose_length_and_shape_disagree_is_refused():
    frame = rows(2)
    lying = frame._replace(header=frame.header._replace(shape=(3, 16)))
    with pytest.raises(WireError, match="announces 128 bytes, but its shape"):
        assemble(messages(lying))
