"""A training step beside its prediction, and what is to blame where they are apart."""

from __future__ import annotations

import pytest

from edgepipe.core.comparison import Comparison, compare_step

PLANNED = (1.0, 2.0)
"""Seconds of each stage in four microbatches: 0.25 and 0.5 of each, 2.25 in a pipeline."""


def compared(measured_s: float, *stage_s: float) -> Comparison:
    return compare_step(
        predicted_s=2.45,
        measured_s=measured_s,
        planned_s=PLANNED,
        stage_s=stage_s,
        num_microbatches=4,
    )


def test_what_was_predicted_has_no_error() -> None:
    found = compared(2.45, *PLANNED)
    assert not found.missed
    assert [term.off_s for term in found.terms] == pytest.approx([0, 0, 0])


def test_what_full_stages_do_not_explain_are_the_hops() -> None:
    assert compared(2.45, *PLANNED).terms[-1].predicted_s == pytest.approx(0.2)
    assert compared(3.25, *PLANNED).terms[-1].measured_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("measured_s", "stage_s", "stage"),
    [
        (3.5, (1.0, 3.0), 1),
        (3.3, (3.0, 2.0), 0),
        (3.5, (1.0, 2.0), None),
        (1.6, (1.0, 1.2), 1),
        (2.25, (1.0, 2.0), None),
    ],
)
def test_the_term_that_is_furthest_off_is_to_blame(
    measured_s: float, stage_s: tuple[float, ...], stage: int | None
) -> None:
    assert compared(measured_s, *stage_s).wrong.stage == stage
