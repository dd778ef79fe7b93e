"""What a stage sees of a boundary: a link, whatever carries it.

    sender                      credits                     receiver
    send ─▶ [queued ≤ credits] ═══ frames ═══▶ [held ≤ credits] ─▶ receive … consumed
                               ◀══ credits ═══

Credits are counted per direction: a receiver says once how many frames it is ready to hold, and
gives one back for each frame that compute took over. So its reader never blocks, a frame never
waits behind one that compute has no room for, and no send blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgepipe.core.frame import Frame
from edgepipe.errors import EdgepipeError

DEFAULT_MAX_FRAME_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message each way on a stream: who speaks, and how many frames it can hold."""

    api: int
    job: str
    epoch: int
    fence: int
    from_stage: int
    credits: int


class Link(Protocol):
    """One end of a stage boundary. Both ends can send and receive frames.

    A link is used from its event loop only, by one receiver at a time.
    """

    def listen(
        self,
        *,
        on_frame: Callable[[Frame], None] | None = None,
        on_room: Callable[[], None] | None = None,
    ) -> None:
        """Be called instead of waiting: with each frame as it arrives, and as credits come back.

        For whoever cannot afford a task switch per frame; `receive` then gives nothing. What a
        callback raises from the error tree ends the link.
        """
        ...

    @property
    def has_room(self) -> bool:
        """Whether there is a credit for one more frame."""
        ...

    async def ended(self) -> EdgepipeError | None:
        """Return once the link is over, with what ended it."""
        ...

    async def ready(self) -> None:
        """Return once there is a credit for one more frame. Raises what `receive` raises."""
        ...

    def send(self, frame: Frame) -> None:
        """Queue a frame; never blocks. The link computes the checksum.

        At most `credits` frames may be queued behind those that were sent and not yet consumed:
        the schedule guarantees it, so more is an AssertionError. Raises what `receive` raises
        once the link is gone.
        """
        ...

    async def receive(self) -> Frame:
        """The next frame, its checksum verified.

        Raises:
            StageLost: the peer is gone, and all that it sent was received.
            WireError: what arrived is no valid frame.
        """
        ...

    def consumed(self) -> None:
        """The oldest frame received and not yet consumed was taken over: its credit goes back."""
        ...

    async def close(self) -> None:
        """Send what is queued as far as credits allow, within a second, and hang up."""
        ...
