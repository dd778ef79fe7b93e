"""A frame cut into chunks, and put together again.

chunk 0   header, payload[0:c]
chunk 1   offset c, payload[c:2c]
…
last      … and the CRC-32 of the whole payload
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from edgepipe.core.frame import Frame, Header
from edgepipe.errors import WireError
from edgepipe.transport import chunk
from edgepipe.transport.convert import fill_header, header_from_wire
from edgepipe.wire.v1 import frame_pb2


def cut(frame: Frame, settle: Callable[[], int], chunk_bytes: int) -> Iterator[bytes]:
    """The messages of a frame; each takes along the credits that `settle` says are owed."""
    payload = frame.payload
    fields = frame_pb2.Chunk()
    fill_header(fields.header, frame.header)
    checksum = 0
    for offset in range(0, max(1, len(payload)), chunk_bytes):
        piece = payload[offset : offset + chunk_bytes]
        checksum = zlib.crc32(piece, checksum)
        if offset:
            fields = frame_pb2.Chunk(offset=offset)
        fields.credits = settle()
        if offset + len(piece) == len(payload):
            fields.checksum = checksum
        yield chunk.join(fields, piece)


@dataclass(slots=True)
class _Partial:
    header: Header
    buffer: memoryview
    filled: int = 0
    checksum: int = 0

    def add(self, piece: memoryview) -> None:
        end = self.filled + len(piece)
        if not piece or end > len(self.buffer):
            raise WireError(
                f"a frame of {len(self.buffer)} bytes goes on with {len(piece)} at {self.filled}"
            )
        self.buffer[self.filled : end] = piece
        self.checksum = zlib.crc32(piece, self.checksum)
        self.filled = end


@dataclass(slots=True, kw_only=True)
class Assembly:
    """Puts one frame after the other together from its chunks.

    A buffer is allocated once a header was checked, and for one frame at a time. A frame of one
    chunk keeps the message's own memory, read-only; a larger one has memory of its own.
    """

    max_frame_bytes: int
    _partial: _Partial | None = field(default=None)

    @property
    def is_idle(self) -> bool:
        """Whether the next chunk begins a frame."""
        return self._partial is None

    def add(self, fields: frame_pb2.Chunk, piece: memoryview) -> Frame | None:
        """The frame, if this chunk is its last. Raises WireError for one that does not fit."""
        if fields.HasField("header") != self.is_idle or fields.offset != self._filled:
            raise WireError(f"a chunk at {fields.offset} came where {self._filled} was due")
        if self._partial is None:
            header = header_from_wire(
                fields.header, checksum=fields.checksum, max_frame_bytes=self.max_frame_bytes
            )
            if header.payload_bytes == len(piece):
                return _sealed(header, piece, zlib.crc32(piece))
            self._partial = _Partial(header, np.empty(header.payload_bytes, np.uint8).data)
        self._partial.add(piece)
        if self._filled < len(self._partial.buffer):
            return None
        done, self._partial = self._partial, None
        header = done.header._replace(checksum=fields.checksum)
        return _sealed(header, done.buffer, done.checksum)

    @property
    def _filled(self) -> int:
        return 0 if self._partial is None else self._partial.filled


def _sealed(header: Header, payload: memoryview, checksum: int) -> Frame:
    if checksum != header.checksum:
        raise WireError("a frame's checksum does not match: it was damaged on the way")
    return Frame(header=header, payload=payload)
