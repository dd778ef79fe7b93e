"""What a worker is at: it stands in every line of its log, whoever writes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Duty:
    """The job and the stage that are on the device, and the step of training that it is at.

    A worker has one stage at a time, so these are true of every line, on each of its threads.
    """

    job: str | None = None
    stage: int = 0
    layers: tuple[int, int] = (0, 0)
    step: int | None = None

    def begin(self, job: str, stage: int, layers: tuple[int, int]) -> None:
        """A stage is about to be loaded; its layers are [first, end)."""
        self.job, self.stage, self.layers, self.step = job, stage, layers, None

    def end(self) -> None:
        """It is over."""
        self.job = self.step = None

    def fields(self) -> dict[str, object]:
        """The fields of a line that is logged now."""
        if self.job is None:
            return {}
        found: dict[str, object] = {"job": self.job, "stage": self.stage, "layers": self.layers}
        return found if self.step is None else {**found, "step": self.step}
