"""Predicted beside measured: how far apart they are, and which term of the prediction was wrong.

one frame       = Σ stage times + hops      a term is one stage's time, or that of all hops together
a training step = (Σ S + (M - 1) · max S) / M + the rest      S: a stage's forwards and backwards
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepipe.core.prediction import Phase

MISS = 0.15
"""A prediction that is wrong by more than that share was made from a wrong profile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Seconds per frame, or step, of one stage; of all hops together where `stage` is None."""

    stage: int | None
    predicted_s: float
    measured_s: float

    @property
    def off_s(self) -> float:
        """By how much it took longer than predicted."""
        return self.measured_s - self.predicted_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A figure of one sequence, or of a step, in seconds, and the terms that it is made of."""

    predicted_s: float
    measured_s: float
    terms: tuple[Term, ...]

    @property
    def error(self) -> float:
        """By how much the measured rate is above the predicted one, as a share."""
        return self.predicted_s / self.measured_s - 1

    @property
    def missed(self) -> bool:
        """The prediction was wrong by more than it may be."""
        return abs(self.error) > MISS

    @property
    def wrong(self) -> Term:
        """The term that is to blame most."""
        slower = self.measured_s > self.predicted_s
        return max(self.terms, key=lambda term: term.off_s if slower else -term.off_s)


def compare(predicted: Phase, *, measured_s: float, stage_s: Sequence[float]) -> Comparison:
    """Compare a phase with what was measured of it.

    Args:
        predicted: decode or prefill.
        measured_s: seconds of what `predicted.seconds` are.
        stage_s: each stage's seconds per frame.

    What the stages do not explain, the hops took. Frames that overlap hide time in one another, so
    with several frames the hops are only what they are predicted to be.
    """
    alone = predicted.num_frames == 1
    hops_s = max(0.0, measured_s - sum(stage_s)) if alone else predicted.hops_s
    stages = [
        Term(stage=index, predicted_s=before, measured_s=after)
        for index, (before, after) in enumerate(zip(predicted.stage_s, stage_s, strict=True))
    ]
    hops = Term(stage=None, predicted_s=predicted.hops_s, measured_s=hops_s)
    return Comparison(predicted_s=predicted.seconds, measured_s=measured_s, terms=(*stages, hops))


def compare_step(
    *,
    predicted_s: float,
    measured_s: float,
    planned_s: Sequence[float],
    stage_s: Sequence[float],
    num_microbatches: int,
) -> Comparison:
    """Compare a training step with what was predicted of it.

    Args:
        predicted_s: of the whole step.
        measured_s: what it took.
        planned_s: predicted seconds of each stage, for all of the step's microbatches.
        stage_s: each stage's own, as measured.
        num_microbatches: M.

    What full stages that wait for nothing do not explain is counted as the hops': depths that do
    not hide them, the optimizer, and the coordinator's part too.
    """
    stages = [
        Term(stage=index, predicted_s=before, measured_s=after)
        for index, (before, after) in enumerate(zip(planned_s, stage_s, strict=True))
    ]
    hops = Term(
        stage=None,
        predicted_s=max(0.0, predicted_s - _pipelined_s(planned_s, num_microbatches)),
        measured_s=max(0.0, measured_s - _pipelined_s(stage_s, num_microbatches)),
    )
    return Comparison(predicted_s=predicted_s, measured_s=measured_s, terms=(*stages, hops))


def _pipelined_s(stage_s: Sequence[float], num_microbatches: int) -> float:
    """A step of stages that wait for nothing but the first and the last microbatch."""
    return (sum(stage_s) + (num_microbatches - 1) * max(stage_s)) / num_microbatches
