"""Which of a job's failures to tell the user: one stage's end makes its neighbours fail too.

    stage 1   "its memory is short"                  its own word, StageError    ◀ the cause
    stage 0   "the other end closed the boundary"    its own word, StageLost
    stage 2   "the other end closed the boundary"    its own word, StageLost

Where stage 1 is killed it has no word: its connection to the coordinator breaks, and that tells
more than what the neighbours see of a boundary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepipe.errors import EdgepipeError, StageLost, Unreachable


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFailure:
    """What ended a stage. `reported`: it said so itself; else the coordinator lost touch with it.

    `who` names the stage's node and device.
    """

    who: str
    error: EdgepipeError
    reported: bool = False

    @property
    def is_conclusive(self) -> bool:
        """Whether nothing that comes later can explain it better."""
        return not isinstance(self.error, StageLost | Unreachable)


def cause(failures: Sequence[StageFailure]) -> StageFailure:
    """The failure that explains the others: the first of the best kind. `failures` is not empty.

    A conclusive one, else a stage that the coordinator itself has lost, else a stage that has
    lost its neighbour.
    """
    return min(failures, key=lambda failure: (not failure.is_conclusive, failure.reported))


def named(error: EdgepipeError, who: str) -> EdgepipeError:
    """The error with `who` it is about before its sentence, unless it begins so already."""
    sentence = str(error)
    return error if sentence.startswith(who) else type(error)(f"{who}: {sentence}")
