"""A link within one process: the same messages, checks and credits, over a queue."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edgepipe.errors import StageLost
from edgepipe.transport.bell import Bell
from edgepipe.transport.credit import Credit
from edgepipe.transport.link import DEFAULT_MAX_FRAME_BYTES
from edgepipe.transport.stream_link import StreamLink

MAX_QUEUED = 4


@dataclass(slots=True)
class _Lane:
    """One direction: a bounded queue that can end."""

    messages: deque[bytes] = field(default_factory=deque)
    ended: bool = False
    filled: Bell = field(default_factory=Bell)
    drained: Bell = field(default_factory=Bell)

    async def put(self, message: bytes) -> None:
        while len(self.messages) >= MAX_QUEUED and not self.ended:
            await self.drained.wait()
        if self.ended:
            raise StageLost("the other end closed the boundary")
        self.messages.append(message)
        self.filled.ring()

    async def get(self) -> bytes | None:
        while not self.messages and not self.ended:
            await self.filled.wait()
        self.drained.ring()
        return self.messages.popleft() if self.messages else None

    def end(self) -> None:
        self.ended = True
        self.filled.ring()
        self.drained.ring()


@dataclass(frozen=True, slots=True)
class _LanePipe:
    incoming: _Lane
    outgoing: _Lane

    async def read(self) -> bytes | None:
        return await self.incoming.get()

    async def write(self, message: bytes) -> None:
        await self.outgoing.put(message)

    async def hang_up(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Each end reads what was written, then the end."""
        self.incoming.end()
        self.outgoing.end()


def pair(
    credits: int,  # noqa: A002 -- the transport's own term
    *,
    max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    eager: bool = False,
) -> tuple[StreamLink, StreamLink]:
    """Two connected ends, each ready to hold `credits` frames. Call it inside a running loop."""
    there, back = _Lane(), _Lane()
    first, second = (
        StreamLink(
            pipe,
            credit=Credit(granted=credits, ceiling=credits, eager=eager),
            max_frame_bytes=max_frame_bytes,
        )
        for pipe in (_LanePipe(there, back), _LanePipe(back, there))
    )
    return first, second
