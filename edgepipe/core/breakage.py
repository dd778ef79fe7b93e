"""Where in a pipeline a value first was not finite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgepipe.core.training import Broken, StageReady

_FORWARD = frozenset({"activations", "loss"})
WHATS = _FORWARD | {"gradients"}
"""What may be broken."""


def origin(reports: Sequence[StageReady]) -> tuple[int, Broken | None] | None:
    """The stage it was on, and what it was, if known; None where every stage is finite.

    Activations flow down: of broken forwards the first stage's was there first. Gradients flow
    up: of broken backwards the last stage's was. A forward comes before its backward.
    """
    for stage, report in enumerate(reports):
        if report.broken is not None and report.broken.what in _FORWARD:
            return stage, report.broken
    for stage in reversed(range(len(reports))):
        report = reports[stage]
        if report.broken is not None or not math.isfinite(report.sum_of_squares):
            return stage, report.broken
    return None


def sentence(step: int, reports: Sequence[StageReady], stages: Sequence[str]) -> str:
    """Why the step cannot be applied, and what helps; `stages` are their names."""
    found = origin(reports)
    if found is None:  # each sum is finite, all together are not
        what = "the norm of all gradients is not finite"
    elif found[1] is None:
        what = f"gradients are not finite on {stages[found[0]]}"
    else:
        what = _what(found[1], stages[found[0]])
    return (
        f"step {step} was not applied: {what}: go on from the last checkpoint with a lower "
        "learning_rate, or without what is wrong in the data"
    )


def _what(broken: Broken, stage: str) -> str:
    verb = "is" if broken.what == "loss" else "are"
    return f"{broken.what} of microbatch {broken.microbatch} {verb} not finite on {stage}"
