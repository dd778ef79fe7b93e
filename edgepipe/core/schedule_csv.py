"""Schedules as CSV, one row per stage, as torch.distributed.pipelining reads and writes them.

0F0,0F1,0B0,0B1
1F0,1B0,1F1,1B1
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO

from edgepipe.core.schedule import MAX_STAGES, Action, Schedule
from edgepipe.errors import UsageError

MAX_CHARS = 2 << 20
"""Room for MAX_STAGES rows of MAX_MICROBATCHES forwards and backwards, and for idle cells."""


def to_csv(schedule: Schedule) -> str:
    """The schedule's rows; every stage has an action."""
    assert all(schedule.stages)
    return "".join(f"{','.join(map(str, actions))}\n" for actions in schedule.stages)


def from_csv(text: str) -> Schedule:
    """The schedule in `text`, whether it can be run or not; empty cells are idle time.

    Raises UsageError where the text is too long or not CSV, a cell is not an action of its row's
    stage, or a row has no action. Rows and columns count from 1, stages from 0.
    """
    if len(text) > MAX_CHARS:
        raise UsageError(f"a schedule has at most {MAX_CHARS} characters, not {len(text)}")
    try:
        rows = list(csv.reader(StringIO(text), strict=True))
    except csv.Error as error:
        raise UsageError(f"the schedule is not CSV: {error}") from error
    if not 1 <= len(rows) <= MAX_STAGES:
        raise UsageError(f"a schedule has 1 to {MAX_STAGES} rows, one per stage, not {len(rows)}")
    return Schedule(stages=tuple(_actions(stage, cells) for stage, cells in enumerate(rows)))


def _actions(stage: int, cells: Sequence[str]) -> tuple[Action, ...]:
    actions = tuple(
        _action(stage, column, cell.strip())
        for column, cell in enumerate(cells, start=1)
        if cell.strip()
    )
    if not actions:
        raise UsageError(
            f"row {stage + 1} of the schedule is empty: give stage {stage} its actions, "
            "or delete the row"
        )
    return actions


def _action(stage: int, column: int, cell: str) -> Action:
    place = f"row {stage + 1}, column {column} of the schedule"
    try:
        action = Action.parse(cell)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from error
    if action.stage != stage:
        raise UsageError(f"{place}: {action} belongs to stage {action.stage}, this row to {stage}")
    return action
