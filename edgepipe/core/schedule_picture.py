"""A schedule drawn as text: a row per stage, a column per time slot, `.` where a stage idles.

one_f_one_b(2, 3):

        0  1  2  3  4  5  6  7
stage 0 F0 F1 .  B0 F2 B1 .  B2
stage 1 .  F0 B0 F1 B1 F2 B2 .
"""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.core.schedule import Action, Schedule
from edgepipe.core.schedule_check import check
from edgepipe.core.schedule_progress import Progress

IDLE = "."


def picture(schedule: Schedule) -> str:
    """The schedule as it runs where forward and backward take a slot each and frames no time.

    Raises UsageError for a schedule that `check` refuses.
    """
    check(schedule)
    num_stages = schedule.num_stages
    columns = [["", *(f"stage {stage}" for stage in range(num_stages))]]
    for number, actions in enumerate(Progress(schedule).slots()):
        columns.append([str(number), *_slot(actions, num_stages)])
    rows = zip(*map(_padded, columns), strict=True)
    return "".join(f"{' '.join(row).rstrip()}\n" for row in rows)


def _slot(actions: Sequence[Action], num_stages: int) -> list[str]:
    """A column: what each stage runs."""
    cells = {action.stage: f"{action.kind}{action.microbatch}" for action in actions}
    return [cells.get(stage, IDLE) for stage in range(num_stages)]


def _padded(cells: Sequence[str]) -> list[str]:
    width = max(map(len, cells))
    return [cell.ljust(width) for cell in cells]
