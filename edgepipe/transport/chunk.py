"""One message of a stream. It is a valid protobuf `Chunk`, joined and split by hand.

    0d n n n n │ hello, header, offset, credits, checksum │ 7a len… │ payload …
    ╰ prefix_bytes: where the payload's tag stands ───────▶╯

So the payload, the last field, is copied once on its way out and not at all on its way in.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from edgepipe.errors import WireError
from edgepipe.wire.v1 import frame_pb2

CHUNK_BYTES = 512 << 10
MAX_PREFIX_BYTES = 256 << 10
PREFIX_TAG = 0x0D  # field 1, fixed32
PREFIX_FIELD_BYTES = 5
PAYLOAD_TAG = 0x7A  # field 15, bytes
MAX_VARINT_BYTES = 5


def join(fields: frame_pb2.Chunk, payload: memoryview) -> bytes:
    """The message of a chunk whose other fields are in `fields`."""
    rest = fields.SerializeToString()
    prefix_bytes = PREFIX_FIELD_BYTES + len(rest)
    head = (b"\x0d", prefix_bytes.to_bytes(4, "little"), rest)
    if not payload:
        return b"".join(head)
    return b"".join((*head, b"\x7a", _varint(len(payload)), payload))


def split(message: bytes) -> tuple[frame_pb2.Chunk, memoryview]:
    """The fields of a message, and its payload as a view into it. Raises WireError."""
    if len(message) < PREFIX_FIELD_BYTES or message[0] != PREFIX_TAG:
        raise WireError("a message arrived that is not a chunk of a frame")
    end = int.from_bytes(message[1:PREFIX_FIELD_BYTES], "little")
    if not PREFIX_FIELD_BYTES <= end <= min(len(message), MAX_PREFIX_BYTES):
        raise WireError(f"a chunk says that its payload begins at {end} of {len(message)} bytes")
    try:
        fields = frame_pb2.Chunk.FromString(message[:end])
    except DecodeError:
        raise WireError("the header of a chunk is damaged") from None
    if fields.payload:
        raise WireError("a chunk has a payload among its other fields")
    return fields, _payload(message, end)


def _payload(message: bytes, start: int) -> memoryview:
    if start == len(message):
        return memoryview(b"")
    if message[start] != PAYLOAD_TAG:
        raise WireError("a chunk has no payload where it says")
    length, begin = _read_varint(message, start + 1)
    if length != len(message) - begin:
        raise WireError(f"a chunk of {length} bytes is cut off at {len(message) - begin}")
    return memoryview(message)[begin:]


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _read_varint(message: bytes, begin: int) -> tuple[int, int]:
    """The number at `begin`, and where it ends."""
    value = 0
    for index, group in enumerate(message[begin : begin + MAX_VARINT_BYTES]):
        value |= (group & 0x7F) << (7 * index)
        if group < 0x80:
            return value, begin + index + 1
    raise WireError("a chunk does not say how long its payload is")
