"""The lease as a worker sees it: its supervisor tells it who may use the device."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from edgepipe.errors import LeaseLost

PATIENCE_S = 5.0
"""A caller may be faster than the supervisor's word to its worker."""


@dataclass(slots=True)
class Fence:
    """The current lease: 0 while there is none. Fences only rise."""

    current: int = 0
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def set(self, fence: int) -> None:
        """Take the supervisor's word; 0 means that the lease is gone."""
        async with self._changed:
            self.current = fence
            self._changed.notify_all()

    async def require(self, fence: int) -> None:
        """Return once `fence` is in force. Raises LeaseLost if it is not, soon."""
        try:
            async with asyncio.timeout(PATIENCE_S), self._changed:
                await self._changed.wait_for(lambda: self.current >= fence > 0)
        except TimeoutError:
            raise LeaseLost("this device is not leased to the caller; acquire it first") from None
        if self.current != fence:
            raise LeaseLost("the lease was superseded by a later one; acquire the device again")

    async def lost(self, fence: int) -> None:
        """Return when `fence` is no longer in force."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.current != fence)
