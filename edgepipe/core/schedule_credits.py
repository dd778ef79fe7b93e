"""How many frames may lie between two stages, so that no send ever blocks compute.

Before a stage sends a frame, all that led to it has happened, whatever the stages' speeds: its
causal past (Lamport 1978). The receiver has begun the frames that it takes in that past; it may
not yet have begun any other. So the most that ever lie there is, over all frames, those sent so
far less those taken in the last one's past.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
from numpy.typing import NDArray

from edgepipe.core.schedule import Action, Kind, Schedule, needed_by
from edgepipe.core.schedule_check import check
from edgepipe.core.schedule_progress import Progress

Past = NDArray[np.int32]
"""[P]: of each stage, how many actions have been done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credits:
    """Of one boundary, in microbatches: activations down the pipeline, gradients up."""

    forward: int
    backward: int


def count_credits(schedule: Schedule) -> tuple[Credits, ...]:
    """Per boundary of stages i and i + 1, the most frames that are ever sent and not consumed.

    A frame is sent once its producer is done, and consumed once its consumer begins. The figure
    holds for every order that asynchronous stages can take, and some order reaches it. With so
    many credits, and as many buffers at the receiver, no send waits.

    Raises UsageError for a schedule that `check` refuses.
    """
    check(schedule)
    pasts = _pasts(schedule)
    return tuple(
        Credits(
            forward=_most_waiting(schedule, pasts, Kind.FORWARD, stage, stage + 1),
            backward=_most_waiting(schedule, pasts, Kind.BACKWARD, stage + 1, stage),
        )
        for stage in range(schedule.num_stages - 1)
    )


def _pasts(schedule: Schedule) -> dict[Action, Past]:
    """Per action, what has surely been done by the time that it is done, itself included."""
    of_stage = [np.zeros(schedule.num_stages, np.int32) for _ in schedule.stages]
    pasts: dict[Action, Past] = {}
    for action in chain.from_iterable(Progress(schedule).slots()):
        past = of_stage[action.stage].copy()
        need = needed_by(action, num_stages=schedule.num_stages)
        if need is not None:
            np.maximum(past, pasts[need], out=past)
        past[action.stage] += 1
        pasts[action] = of_stage[action.stage] = past
    return pasts


def _most_waiting(
    schedule: Schedule, pasts: dict[Action, Past], kind: Kind, sender: int, receiver: int
) -> int:
    """The most frames of a kind that lie between two stages; see the top of the file."""
    sends = [action for action in schedule.stages[sender] if action.kind is kind]
    takes = (action.kind is kind for action in schedule.stages[receiver])
    num_taken = list(accumulate(takes, initial=0))
    return max(
        num_sent - num_taken[int(pasts[send][receiver])]
        for num_sent, send in enumerate(sends, start=1)
    )
