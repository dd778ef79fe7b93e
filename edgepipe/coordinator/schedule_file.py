"""A schedule as a setting names it: by its name, or by a CSV file of its actions."""

from __future__ import annotations

from pathlib import Path

from edgepipe.core.schedule import ScheduleName
from edgepipe.core.schedule_choice import Wish
from edgepipe.errors import UsageError


def read_wish(schedule: str, setting: str = "--schedule") -> Wish:
    """A schedule by its name, or by the CSV file of its actions, as a setting has it.

    Raises UsageError.
    """
    if schedule in set(ScheduleName):
        return Wish(name=schedule)
    file = Path(schedule)
    if file.suffix != ".csv":
        raise UsageError(
            f"{setting} is one of {', '.join(ScheduleName)}, or a .csv file, not {schedule!r}"
        )
    try:
        text = file.read_text()
    except OSError as error:
        raise UsageError(f"{setting} {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{setting} {file} is not a file of actions: not text") from None
    try:
        return Wish.of_csv(file.name, text)
    except UsageError as error:
        raise UsageError(f"{setting} {file} cannot be used: {error}") from None
