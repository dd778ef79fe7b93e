"""Schedules as pictures, kept in tests/golden/schedules."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from drawn_schedules import PICTURED, any_depths, of
from hypothesis import given

from edgepipe.core.schedule import Schedule, one_f_one_b
from edgepipe.core.schedule_picture import picture
from edgepipe.errors import UsageError


@pytest.mark.parametrize(("name", "schedule"), PICTURED.items())
def test_the_picture(name: str, schedule: Schedule, golden: Callable[[str, str], None]) -> None:
    golden(f"schedules/{name}", picture(schedule))


@given(any_depths())
def test_the_picture_shows_each_stage_its_actions_in_order(schedule: Schedule) -> None:
    _, *rows = picture(schedule).splitlines()
    for stage, row in enumerate(rows):
        name, number, *cells = row.split()
        drawn = [f"{stage}{cell}" for cell in cells if cell != "."]
        assert [name, number] == ["stage", str(stage)]
        assert drawn == [str(action) for action in schedule.stages[stage]]


@given(any_depths(max_stages=5, max_microbatches=8))
def test_1f1b_as_deep_as_the_pipeline_takes_the_fewest_slots(schedule: Schedule) -> None:
    num_stages, num = schedule.num_stages, schedule.num_microbatches
    slots = len(picture(schedule).splitlines()[0].split())
    fewest = 2 * (num + num_stages - 1)
    assert slots >= fewest
    assert len(picture(one_f_one_b(num_stages, num)).splitlines()[0].split()) == fewest


def test_a_deadlock_has_no_picture() -> None:
    with pytest.raises(UsageError, match="deadlock"):
        picture(of("0F0 0B0 0F1 0B1", "1F0 1F1 1B0 1B1"))
