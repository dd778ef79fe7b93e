"""A model on its devices, held open by a task of its own until it is closed or breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgepipe.api.quiet import Quiet
from edgepipe.coordinator.launch import Running, Where, open_model
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.text import Tokenizer
from edgepipe.errors import UsageError

Result = TypeVar("Result")


@dataclass(slots=True, kw_only=True)
class HeldModel:
    """Made by `hold`. Sequences of at most `max_positions` tokens."""

    prepared: Prepared
    tokenizer: Tokenizer
    max_positions: int
    running: Running = field(init=False)
    num_answers: int = 0
    _holding: asyncio.Task[None] = field(init=False)
    _closing: asyncio.Event = field(default_factory=asyncio.Event)

    async def hold(self, where: Where, how: How) -> None:
        """Plan and deploy. Raises as `open_model`."""
        opened: asyncio.Future[Running] = asyncio.get_running_loop().create_future()
        self._holding = asyncio.create_task(self._hold(where, how, opened))
        first: set[asyncio.Future[Any]] = {opened, self._holding}
        try:
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._holding.cancel()
            await asyncio.wait({self._holding})
            raise
        if not opened.done():
            await self._holding
        self.running = opened.result()

    async def _hold(self, where: Where, how: How, opened: asyncio.Future[Running]) -> None:
        async with open_model(
            self.prepared, where, how, max_positions=self.max_positions, interface=Quiet()
        ) as running:
            opened.set_result(running)
            await self._closing.wait()

    @property
    def is_open(self) -> bool:
        """Whether it can answer."""
        return not self._holding.done()

    async def during(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` returns; if the pipeline breaks meanwhile, raises what broke it."""
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._holding}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            await self._holding
            raise UsageError("the model was closed before the answer ended: ask again")
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def close(self) -> None:
        """Give every device back. What broke the pipeline before has been told, or is of no use."""
        self._closing.set()
        await asyncio.wait({self._holding})
        if not self._holding.cancelled():
            self._holding.exception()
