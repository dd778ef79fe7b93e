"""Schedules as CSV: exact both ways, and every bad cell named by row and column."""

from __future__ import annotations

import pytest
from drawn_schedules import any_order, of
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.schedule import (
    MAX_MICROBATCHES,
    MAX_STAGES,
    Action,
    Kind,
    Schedule,
    gpipe,
    one_f_one_b,
)
from edgepipe.core.schedule_csv import MAX_CHARS, from_csv, to_csv
from edgepipe.errors import UsageError

TWO = "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"


@st.composite
def any_lists(draw: st.DrawFn) -> Schedule:
    """Action lists that need not make sense."""
    number = st.integers(0, 9999)
    return Schedule(
        stages=tuple(
            tuple(
                Action(stage=stage, kind=draw(st.sampled_from(Kind)), microbatch=draw(number))
                for _ in range(draw(st.integers(1, 5)))
            )
            for stage in range(draw(st.integers(1, 12)))
        )
    )


def test_a_row_is_a_stage() -> None:
    assert to_csv(one_f_one_b(2, 2)) == TWO


@given(st.one_of(any_order(), any_lists()))
def test_what_is_written_is_read_back(schedule: Schedule) -> None:
    text = to_csv(schedule)
    assert from_csv(text) == schedule
    assert to_csv(from_csv(text)) == text


def test_the_largest_schedule_fits() -> None:
    largest = gpipe(MAX_STAGES, MAX_MICROBATCHES)
    assert from_csv(to_csv(largest)) == largest


def test_empty_cells_are_idle_time_as_torch_writes_it() -> None:
    text = '0F0,0F1,,0B0,,0B1\r\n, 1F0 ,1B0,"1F1",1B1,\r\n'
    assert from_csv(text) == of("0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("0F0,0B0\n1F0,1X0\n", "row 2, column 2 of the schedule: '1X0' is not an action: write"),
        ("0F0,,0SEND_F0\n", "row 1, column 3 of the schedule: '0SEND_F0' is not an action"),
        ("0F0,0B0\n1F0,0B0\n", "row 2, column 2 of the schedule: 0B0 belongs to stage 0, this"),
        ("0F0;0B0\n", "row 1, column 1 of the schedule: '0F0;0B0' is not an action"),
        ("0F0,0B0\n\n", "row 2 of the schedule is empty: give stage 1 its actions, or delete"),
        ("0F0,0B0\n,,\n", "row 2 of the schedule is empty: give stage 1 its actions, or delete"),
        ("", f"a schedule has 1 to {MAX_STAGES} rows, one per stage, not 0"),
        ("0F0\n" * (MAX_STAGES + 1), f"a schedule has 1 to {MAX_STAGES} rows, one per stage"),
        ("," * (MAX_CHARS + 1), f"a schedule has at most {MAX_CHARS} characters, not"),
        ('"0F0', "the schedule is not CSV: "),
        ("0" * 200_000, "the schedule is not CSV: "),
    ],
)
def test_what_cannot_be_read_is_named(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as refused:
        from_csv(text)
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


@given(st.text(st.sampled_from('01FB,\n"; \r\0x')))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        assert all(from_csv(text).stages)
    except UsageError as error:
        message = str(error)
    assert "\n" not in message
