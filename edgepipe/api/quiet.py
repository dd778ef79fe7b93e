"""What a program is told of a job: its steps. Everything else a person would watch."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgepipe.coordinator.launch import Running
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.planned import Planned
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_loop import StepDone

_log = logging.getLogger("edgepipe")


class Quiet(Silent):
    """Shows nothing of planning and deploying. See launch.Interface."""

    def measuring(self, what: str, done: int, total: int) -> None:
        """Nothing."""

    def searching(self, done: int, total: int) -> None:
        """Nothing."""

    def hashing(self, done_bytes: int, total_bytes: int) -> None:
        """Nothing."""

    def planned(self, planned: Planned, roster: Roster) -> None:
        """Nothing."""

    def deployed(self) -> None:
        """Nothing."""


class Steps(Quiet):
    """Tells every step of a run, and logs what is worth a sentence. See TrainInterface."""

    def __init__(self, tell: Callable[[StepMetrics], None]) -> None:
        self._tell = tell

    def tokenising(self, done: int, total: int) -> None:
        """Nothing."""

    def starting(self, running: Running, config: TrainConfig) -> None:
        """Nothing."""

    def stepped(self, done: StepDone) -> None:
        """Tell it."""
        self._tell(done.metrics)

    def noted(self, text: str) -> None:
        """Log it."""
        _log.warning("%s", text)
