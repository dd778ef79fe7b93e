"""What happens to a training step on its way to being applied, and what is decided of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgepipe.core.training import StageApplied, StageReady, Update


class Verdict(StrEnum):
    """What becomes of a step."""

    APPLY = "apply"
    SKIP = "skip"
    STOP = "stop"


# ------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """All microbatches are through on a stage."""

    stage: int
    report: StageReady


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A stage has carried the decision out."""

    stage: int
    report: StageApplied


Event = Ready | Applied

# ------------------------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Journal this, then tell every stage, or give up where the verdict is to stop.

    Gradients are multiplied by `scale`, which clips them and undoes `loss_scale`; both it and the
    learning rate are 0 unless the verdict is to apply. `grad_norm` is of the true gradients,
    before clipping, and not finite where they are not. `reason` says why a step is not applied.
    """

    order: int
    step: int
    verdict: Verdict
    learning_rate: float
    scale: float
    loss_scale: float
    grad_norm: float
    reason: str = ""

    @property
    def update(self) -> Update | None:
        """What the stages do; None forgets the gradients."""
        if self.verdict is not Verdict.APPLY:
            return None
        return Update(learning_rate=self.learning_rate, scale=self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The step is behind every stage."""

    step: int


Instruction = Decided | Done
