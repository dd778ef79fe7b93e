"""A link over any ordered stream of messages: gRPC's, or a queue in this process.

One task reads and one writes. Credits ride on chunks of data, and alone where there are none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from edgepipe.core.frame import Frame
from edgepipe.errors import EdgepipeError, StageLost, Unreachable
from edgepipe.transport import chunk
from edgepipe.transport.bell import Bell
from edgepipe.transport.chunk import CHUNK_BYTES
from edgepipe.transport.convert import check_size
from edgepipe.transport.credit import Credit
from edgepipe.transport.pieces import Assembly, cut
from edgepipe.wire.v1 import frame_pb2

CLOSE_DEADLINE_S = 1.0
NOTHING = memoryview(b"")


class Pipe(Protocol):
    """An ordered stream of messages both ways. Failures are raised from the error tree."""

    async def read(self) -> bytes | None:
        """The next message, None after the last."""
        ...

    async def write(self, message: bytes) -> None:
        """Send one message, once there is room for it."""
        ...

    async def hang_up(self) -> None:
        """Say that nothing more comes; return when all that was written has arrived."""
        ...

    def drop(self) -> None:
        """Break the stream off."""
        ...


class StreamLink:
    """See `Link`. It works from its creation, inside a running loop, until either end closes."""

    def __init__(
        self, pipe: Pipe, *, credit: Credit, max_frame_bytes: int, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._pipe = pipe
        self._credit = credit
        self._assembly = Assembly(max_frame_bytes=max_frame_bytes)
        self._chunk_bytes = chunk_bytes
        self._queue: deque[Frame] = deque()
        self._inbox: deque[Frame] = deque()
        self._wake = Bell()
        self._room = Bell()
        self._arrived = Bell()
        self._on_frame: Callable[[Frame], None] | None = None
        self._on_room: Callable[[], None] | None = None
        self._closing = False
        self._failure: EdgepipeError | None = None
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())

    def listen(
        self,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        """See `Link.listen`."""
        self._on_frame = on_frame or self._on_frame
        self._on_room = on_room or self._on_room
        while self._inbox and self._on_frame is not None:
            self._on_frame(self._inbox.popleft())

    @property
    def has_room(self) -> bool:
        """See `Link.has_room`."""
        return self._credit.available > len(self._queue)

    async def ready(self) -> None:
        """See `Link.ready`."""
        while not self.has_room:
            self._raise_failure()
            await self._room.wait()
        self._raise_failure()

    def send(self, frame: Frame) -> None:
        """See `Link.send`."""
        self._raise_failure()
        check_size(frame.header, max_frame_bytes=len(frame.payload))
        assert frame.header.payload_bytes == len(frame.payload)
        assert len(self._queue) + self._credit.spent < 2 * self._credit.ceiling
        self._queue.append(frame)
        self._wake.ring()

    async def receive(self) -> Frame:
        """See `Link.receive`."""
        while not self._inbox:
            self._raise_failure()
            await self._arrived.wait()
        return self._inbox.popleft()

    def consumed(self) -> None:
        """See `Link.consumed`."""
        self._credit.consume()
        if self._credit.due:
            self._wake.ring()

    async def settled(self) -> None:
        """Return once all that was sent has been consumed and its credits are back."""
        while self._queue or self._credit.spent:
            self._raise_failure()
            await self._room.wait()

    async def ended(self) -> EdgepipeError | None:
        """See `Link.ended`."""
        await asyncio.wait({self._reader})
        return self._failure

    async def close(self) -> None:
        """See `Link.close`."""
        self._closing = True
        self._wake.ring()
        if self._failure is None:
            await asyncio.wait({self._writer}, timeout=CLOSE_DEADLINE_S)
            self._writer.cancel()
            await self._pipe.hang_up()
        self._reader.cancel()
        await asyncio.wait({self._reader})

    def drop(self, error: EdgepipeError) -> None:
        """Break the link off because of `error`; frames on their way are lost."""
        self._fail(error)
        self._reader.cancel()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def _read(self) -> None:
        try:
            while (message := await self._pipe.read()) is not None:
                self._take(message)
            self._fail(StageLost("the other end closed the boundary"))
        except Unreachable as error:
            self._fail(StageLost(str(error)))
        except EdgepipeError as error:
            self._fail(error)
        finally:
            self._fail(StageLost("this end closed the boundary"))
            self._writer.cancel()
            self._pipe.drop()

    def _take(self, message: bytes) -> None:
        fields, piece = chunk.split(message)
        if fields.credits:
            self._credit.refill(fields.credits)
            self._room.ring()
            self._wake.ring()
            if self._on_room is not None:
                self._on_room()
        if not piece and not fields.HasField("header"):
            return
        if self._assembly.is_idle:
            self._credit.hold()
        frame = self._assembly.add(fields, piece)
        if frame is None:
            return
        if self._on_frame is not None:
            self._on_frame(frame)
        else:
            self._inbox.append(frame)
            self._arrived.ring()

    async def _write(self) -> None:
        try:
            await self._write_all()
        except EdgepipeError:
            return  # the reader fails too, and knows why

    async def _write_all(self) -> None:
        while True:
            if self._queue and self._credit.available:
                await self._write_frame(self._queue.popleft())
            elif self._credit.due:
                credits_only = frame_pb2.Chunk(credits=self._credit.settle())
                await self._pipe.write(chunk.join(credits_only, NOTHING))
            elif self._closing:
                return
            else:
                await self._wake.wait()

    async def _write_frame(self, frame: Frame) -> None:
        self._credit.spend()
        for message in cut(frame, self._credit.settle, self._chunk_bytes):
            await self._pipe.write(message)

    def _fail(self, error: EdgepipeError) -> None:
        if self._failure is None:
            self._failure = error
        self._room.ring()
        self._arrived.ring()
