"""Weights that outlive their job: the next job of the same stage loads nothing.

They are parked until memory is wanted for another stage, or for ten minutes.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.resident import give_back_freed_memory, reset_peak
from edgepipe.engine.base import Engine, Loaded, Progress, StageSpec

PARKED_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parked:
    key: str
    engine: Engine
    loaded: Loaded


class Parking:
    """Holds at most one loaded engine."""

    def __init__(self, compute: ComputeThread) -> None:
        self._compute = compute
        self._parked: _Parked | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> Loaded | None:
        """What the engine that is held takes of the device."""
        return None if self._parked is None else self._parked.loaded

    async def load(
        self, key: str, make: Callable[[], Engine], spec: StageSpec, progress: Progress
    ) -> tuple[Engine, Loaded]:
        """The engine that `key` names: the parked one, or a new one in its place."""
        self._keep()
        if self._parked is not None and self._parked.key == key:
            return self._parked.engine, self._parked.loaded
        await self.clear()
        reset_peak()
        engine = make()
        try:
            loaded = await self._compute.run(lambda: engine.load(spec, progress))
        except BaseException:
            await asyncio.shield(self._compute.run(lambda: free(engine)))
            raise
        self._parked = _Parked(key=key, engine=engine, loaded=loaded)
        return engine, loaded

    def park(self) -> None:
        """The job is over: start the clock."""
        self._keep()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(PARKED_S, self._expire)

    async def clear(self) -> None:
        """Free what is parked."""
        parked, self._parked = self._parked, None
        if parked is not None:
            await self._compute.run(lambda: free(parked.engine))

    def _keep(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def _expire(self) -> None:
        """Out of reach at once, so that no `load` is given what is about to go."""
        parked, self._parked = self._parked, None
        if parked is not None:
            unload = self._compute.run(lambda: free(parked.engine))
            self._unloading = asyncio.get_running_loop().create_task(unload)


class Unloadable(Protocol):
    """An engine of any kind."""

    def unload(self) -> None:
        """Free all that is held."""
        ...


def free(engine: Unloadable) -> None:
    """Unload, and let the collector run.

    Modules, hooks and tasks refer to one another: only the collector frees their tensors.
    """
    engine.unload()
    gc.collect()
    give_back_freed_memory()
