"""What a stage does once it is connected: it generates, or it trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgepipe.wire.v1 import stage_pb2

Tell = Callable[[stage_pb2.Event], None]
"""Queues an event for the coordinator. Raises StageError where it does not read them."""


class Role(Protocol):
    """One stage's work, between its boundaries."""

    async def run(self) -> None:
        """Work until cancelled. Raises StageLost, WireError, or what the engine raised."""
        ...

    def obey(self, command: stage_pb2.Command) -> None:
        """Carry a command out. Raises WireError for one that the stage has no use for."""
        ...
