"""Which schedule a user wishes for: one that is generated, or a list of actions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from edgepipe.core.schedule import Schedule, ScheduleName, generate
from edgepipe.core.schedule_check import check
from edgepipe.core.schedule_csv import from_csv
from edgepipe.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A generated schedule by its name, or `given` actions whose name is their file's."""

    name: str = ScheduleName.ONE_F_ONE_B_K
    given: Schedule | None = None

    @classmethod
    def of_csv(cls, name: str, text: str) -> Self:
        """The actions in a CSV file's text. Raises UsageError where they cannot be run."""
        schedule = from_csv(text)
        check(schedule)
        return cls(name=name, given=schedule)

    def schedule(self, num_stages: int, num_microbatches: int, depths: Sequence[int]) -> Schedule:
        """For so many stages and microbatches; `depths` are for 1f1b-k.

        Raises UsageError where the given actions are for others.
        """
        if self.given is None:
            name = ScheduleName(self.name)
            takes = name is ScheduleName.ONE_F_ONE_B_K
            return generate(name, num_stages, num_microbatches, depths=depths if takes else None)
        found = (self.given.num_stages, self.given.num_microbatches)
        if found != (num_stages, num_microbatches):
            raise UsageError(
                f"the schedule {self.name} is for {found[0]} stages and {found[1]} microbatches, "
                f"not for {num_stages} and {num_microbatches}"
            )
        return self.given
