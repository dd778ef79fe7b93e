"""What a stage does once it is connected: it generates, or it trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from edgepipe.wire.v1 import stage_pb2

Tell = Callable[[stage_pb2.Event], None]
"""Queues an event for the coordinator. Raises StageError where it does not read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Depths:
    """What waits at a stage now: frames that arrived, and computed ones that have not gone.

    `inflight` are microbatches whose backward has not come, or, on the first stage of a ring,
    sequences with rows in it; there also those `running` in a slot and `waiting` for one.
    """

    queued_frames: int = 0
    unsent_frames: int = 0
    inflight: int = 0
    running: int = 0
    waiting: int = 0


class Role(Protocol):
    """One stage's work, between its boundaries."""

    async def run(self) -> None:
        """Work until cancelled. Raises StageLost, WireError, or what the engine raised."""
        ...

    def obey(self, command: stage_pb2.Command) -> None:
        """Carry a command out. Raises WireError for one that the stage has no use for."""
        ...

    def depths(self) -> Depths:
        """What waits now."""
        ...
