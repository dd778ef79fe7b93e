"""The lease as a worker sees it: its supervisor tells it who may use the device."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from edgepipe.errors import EdgepipeError, LeaseLost, NodeLeaving

LEAVING = "its agent stops; run it again without it, or once it is back"
PATIENCE_S = 5.0
"""A caller may be faster than the supervisor's word to its worker."""


@dataclass(slots=True)
class Fence:
    """The current lease: 0 while there is none. Fences only rise."""

    current: int = 0
    is_leaving: bool = False
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def set(self, fence: int) -> None:
        """Take the supervisor's word; 0 means that the lease is gone."""
        async with self._changed:
            self.current = fence
            self._changed.notify_all()

    async def leave(self) -> None:
        """The agent stops: whoever holds the device loses it now, and is told why."""
        self.is_leaving = True
        await self.set(0)

    async def require(self, fence: int) -> None:
        """Return once `fence` is in force. Raises LeaseLost, or NodeLeaving, if it is not, soon."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: self.is_leaving or self.current >= fence > 0)
        except TimeoutError:
            raise self.ended("this device is not leased to the caller; acquire it first") from None
        if self.current != fence:
            raise self.ended("the lease was superseded by a later one; acquire the device again")

    async def lost(self, fence: int) -> None:
        """Return when `fence` is no longer in force."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.current != fence)

    def ended(self, sentence: str) -> EdgepipeError:
        """Why a lease is not in force: `sentence`, unless the agent stops."""
        if self.is_leaving:
            return NodeLeaving(LEAVING)
        return LeaseLost(sentence)
