"""What a person may be shown while a job is deployed."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called on the event loop; bytes done and in all, per stage."""

    def sending(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """Weights on their way to the stage's agent."""
        ...

    def loading(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """Weights read by the stage."""
        ...


class Silent:
    """Shows nothing."""

    def sending(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """Nothing."""

    def loading(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """Nothing."""
