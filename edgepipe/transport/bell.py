"""A wake-up call for one waiter; half the time of an asyncio.Event, twice on every hop."""

from __future__ import annotations

import asyncio


class Bell:
    """Rings are not remembered: look at the state, then wait, without a step in between."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Wake the waiter, if there is one."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        """Return at the next ring."""
        assert self._waiter is None, "one waiter at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
