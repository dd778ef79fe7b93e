"""The two phases of a training step: all stages are ready, one decision, all have applied it.

    begun ──ready of every stage──▶ decided: apply | skip ──applied of every stage──▶ done
                                            └ stop        nothing is applied any more

A step whose gradients are not finite is never applied. In float16 it is skipped and the loss
scale halves, until the scale can fall no further; else it stops the run, and the sentence names
where the value first was not finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from edgepipe.core.breakage import WHATS, sentence
from edgepipe.core.learning_rate import LearningRate
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.step_decision import (
    Applied,
    Decided,
    Done,
    Event,
    Instruction,
    Ready,
    Verdict,
)
from edgepipe.core.training import StageReady
from edgepipe.errors import WireError

_CLIP_EPS = 1e-6
"""As torch.nn.utils.clip_grad_norm_ has it."""


class _Phase(StrEnum):
    IDLE = "is over"
    GATHERING = "is not decided"
    APPLYING = "is decided"
    STOPPED = "is given up"


@dataclass(slots=True, kw_only=True)
class Commit:
    """Decides step after step of one run.

    Args:
        stages: their names, for sentences.
        clip_norm: what the norm of all gradients is clipped to; 0 is off.
        learning_rate: of every step.
        loss_scale: in float16, of the next step; else None.
    """

    stages: Sequence[str]
    clip_norm: float
    learning_rate: LearningRate
    loss_scale: LossScale | None
    _phase: _Phase = _Phase.IDLE
    _order: int = 0
    _step: int = 0
    _ready: dict[int, StageReady] = field(default_factory=dict)
    _applied: set[int] = field(default_factory=set)

    @property
    def scale(self) -> float:
        """What the loss of the step is multiplied by, until it is decided: then the next one's."""
        return self.loss_scale.scale if self.loss_scale is not None else 1.0

    def begin(self, *, order: int, step: int) -> None:
        """The order that trains a step goes out; steps rise, and each ends before the next."""
        assert self._phase is _Phase.IDLE, f"step {self._step} {self._phase}"
        assert step > self._step, f"step {step} after {self._step}"
        self._order, self._step = order, step
        self._ready, self._applied = {}, set()
        self._phase = _Phase.GATHERING

    def handle(self, event: Event) -> Instruction | None:
        """What follows from a stage's report.

        Raises WireError where the stage was not asked for it, or sent it twice.
        """
        match event:
            case Ready():
                return self._on_ready(event)
            case Applied():
                return self._on_applied(event)
            case _:
                assert_never(event)

    def _on_ready(self, event: Ready) -> Decided | None:
        self._check(event.stage, event.report.order, _Phase.GATHERING, "ready")
        if event.stage in self._ready:
            raise WireError(f"{self.stages[event.stage]} is ready twice: run one version")
        self._check_report(event)
        self._ready[event.stage] = event.report
        if len(self._ready) < len(self.stages):
            return None
        decided = self._decide()
        self._phase = _Phase.STOPPED if decided.verdict is Verdict.STOP else _Phase.APPLYING
        return decided

    def _on_applied(self, event: Applied) -> Done | None:
        self._check(event.stage, event.report.order, _Phase.APPLYING, "done")
        if event.stage in self._applied:
            raise WireError(f"{self.stages[event.stage]} is done twice: run one version")
        self._applied.add(event.stage)
        if len(self._applied) < len(self.stages):
            return None
        self._phase = _Phase.IDLE
        return Done(step=self._step)

    def _check(self, stage: int, order: int, phase: _Phase, what: str) -> None:
        name = self.stages[stage]
        if order != self._order:
            raise WireError(f"{name} is {what} with order {order}, not {self._order}")
        if self._phase is not phase:
            raise WireError(f"{name} is {what} with order {order}, which {self._phase}")

    def _check_report(self, event: Ready) -> None:
        name, report = self.stages[event.stage], event.report
        if report.sum_of_squares < 0:
            raise WireError(f"{name} sums squares to {report.sum_of_squares}: run one version")
        if report.broken is not None and report.broken.what not in WHATS:
            raise WireError(f"{name} says that {report.broken.what[:40]!r} broke: run one version")

    def _decide(self) -> Decided:
        """The decision on a step that every stage is ready for."""
        reports = [self._ready[stage] for stage in range(len(self.stages))]
        loss_scale = self.scale
        norm = math.sqrt(sum(report.sum_of_squares for report in reports)) / loss_scale
        finite = math.isfinite(norm) and all(report.broken is None for report in reports)
        verdict = self._verdict(finite=finite)
        if self.loss_scale is not None:
            self.loss_scale = self.loss_scale.next(finite=finite)
        return Decided(
            order=self._order,
            step=self._step,
            verdict=verdict,
            learning_rate=self.learning_rate.at(self._step) if finite else 0.0,
            scale=clip_scale(norm, self.clip_norm) / loss_scale if finite else 0.0,
            loss_scale=loss_scale,
            grad_norm=norm,
            reason="" if finite else sentence(self._step, reports, self.stages),
        )

    def _verdict(self, *, finite: bool) -> Verdict:
        """To skip a step is for where a smaller loss scale may help."""
        if finite:
            return Verdict.APPLY
        skips = self.loss_scale is not None and not self.loss_scale.is_least
        return Verdict.SKIP if skips else Verdict.STOP


def clip_scale(norm: float, clip_norm: float) -> float:
    """What gradients of this norm are multiplied by; as torch.nn.utils.clip_grad_norm_ does it."""
    return min(1.0, clip_norm / (norm + _CLIP_EPS)) if clip_norm else 1.0
