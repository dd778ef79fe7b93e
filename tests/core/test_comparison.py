"""Predicted beside measured: the error, and the term that is to blame."""

from __future__ import annotations

import pytest

from edgepipe.core.comparison import compare
from edgepipe.core.prediction import Phase

DECODE = Phase(seconds=0.032, num_frames=1, stage_s=(0.010, 0.020), hops_s=0.002)


def test_what_was_predicted_has_no_error() -> None:
    found = compare(DECODE, measured_s=0.032, stage_s=(0.010, 0.020))
    assert found.error == pytest.approx(0)
    assert not found.missed


@pytest.mark.parametrize(
    ("measured_s", "stage_s", "stage"),
    [
        (0.042, (0.020, 0.020), 0),
        (0.042, (0.010, 0.030), 1),
        (0.042, (0.010, 0.020), None),
        (0.024, (0.010, 0.012), 1),
    ],
)
def test_the_term_that_is_furthest_off_is_to_blame(
    measured_s: float, stage_s: tuple[float, ...], stage: int | None
) -> None:
    found = compare(DECODE, measured_s=measured_s, stage_s=stage_s)
    assert found.missed
    assert found.wrong.stage == stage


def test_a_miss_is_more_than_15_percent() -> None:
    assert not compare(DECODE, measured_s=0.032 / 1.149, stage_s=(0.01, 0.02)).missed
    assert compare(DECODE, measured_s=0.032 / 1.151, stage_s=(0.01, 0.02)).missed


def test_a_slow_term_is_not_to_blame_where_the_whole_was_fast() -> None:
    found = compare(DECODE, measured_s=0.026, stage_s=(0.012, 0.012))
    assert found.wrong.stage == 1


def test_frames_that_overlap_say_nothing_of_hops() -> None:
    prefill = Phase(seconds=0.5, num_frames=4, stage_s=(0.1, 0.1), hops_s=0.02)
    found = compare(prefill, measured_s=0.7, stage_s=(0.15, 0.1))
    assert found.terms[-1].off_s == 0
    assert found.wrong.stage == 0
