"""Whether a schedule can be run: every action once, in an order that never deadlocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise

from edgepipe.core.schedule import (
    Action,
    Schedule,
    backward,
    check_size,
    forward,
    needed_by,
)
from edgepipe.core.schedule_progress import Progress
from edgepipe.errors import UsageError


def check(schedule: Schedule) -> None:
    """Raises UsageError unless stages that run their lists in order finish the step.

    The sentence names the action that is missing, doubled, foreign or before its forward, or the
    actions by which two stages wait for each other.
    """
    num_microbatches = schedule.num_microbatches
    check_size(schedule.num_stages, num_microbatches)
    for stage, actions in enumerate(schedule.stages):
        _check_complete(stage, actions, num_microbatches)
        _check_order(stage, actions, num_microbatches)
    _check_progress(schedule)


def _check_complete(stage: int, actions: Sequence[Action], num_microbatches: int) -> None:
    """Raises UsageError unless the stage runs its 2 M actions, each once."""
    microbatches = range(num_microbatches)
    times = {make(stage, number): 0 for make in (forward, backward) for number in microbatches}
    for action in actions:
        if action not in times:
            raise UsageError(
                f"stage {stage} cannot run {action}: give it only its own actions, "
                f"{forward(stage, 0)} to {backward(stage, num_microbatches - 1)}"
            )
        times[action] += 1
    for action, count in times.items():
        if count != 1:
            fault = f"runs {action} {count} times" if count else f"lacks {action}"
            raise UsageError(
                f"stage {stage} {fault}: each of the {num_microbatches} microbatches wants "
                "one forward and one backward on every stage"
            )


def _check_order(stage: int, actions: Sequence[Action], num_microbatches: int) -> None:
    """Raises UsageError unless each backward comes after its forward."""
    place = {action: at for at, action in enumerate(actions)}
    for microbatch in range(num_microbatches):
        first, then = forward(stage, microbatch), backward(stage, microbatch)
        if place[then] < place[first]:
            raise UsageError(
                f"stage {stage} runs {then} before {first}: put the backward after its forward"
            )


def _check_progress(schedule: Schedule) -> None:
    """Raises UsageError where stages wait for one another for ever.

    A stage waits for a neighbour, the first that waits only for the next, the last only for the
    one before. So there are two neighbours that wait for each other.
    """
    progress = Progress(schedule)
    deque(progress.slots(), maxlen=0)
    waits = [
        (action, need)
        for action in progress.waiting()
        if (need := needed_by(action, num_stages=schedule.num_stages))
    ]
    for (upper, gradient), (lower, activation) in pairwise(waits):
        if gradient.stage == lower.stage and activation.stage == upper.stage:
            raise UsageError(
                f"stages {upper.stage} and {lower.stage} deadlock, so reorder one of them: "
                f"{upper} waits for {gradient}, which stage {lower.stage} runs after {lower}, "
                f"which waits for {activation}, which stage {upper.stage} runs after {upper}"
            )
    assert not waits
