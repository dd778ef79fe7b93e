"""How far a pipeline gets whose stages run their lists in order."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from edgepipe.core.schedule import Action, Schedule, needed_by


class Progress:
    """Stages of which each waits only for what its next action needs.

    An action that can run stays able to, whatever else runs first. So the point where nothing can
    run any more is the same for every order that asynchronous stages can take.

    Args:
        schedule: one that names every action that another needs.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._stages = schedule.stages
        self._num_done = [0] * schedule.num_stages
        place = {
            action: (stage, at)
            for stage, actions in enumerate(schedule.stages)
            for at, action in enumerate(actions)
        }
        needs = partial(needed_by, num_stages=schedule.num_stages)
        self._needs = [
            [place[need] if (need := needs(action)) else None for action in actions]
            for actions in schedule.stages
        ]

    def slots(self) -> Iterator[list[Action]]:
        """Per time slot, what runs: of every stage that can, the next action, until none can."""
        while ready := [stage for stage in range(len(self._stages)) if self._is_ready(stage)]:
            yield [self._advance(stage) for stage in ready]

    def waiting(self) -> list[Action]:
        """The next action of every stage that has not run its list to the end."""
        return [
            actions[done]
            for actions, done in zip(self._stages, self._num_done, strict=True)
            if done < len(actions)
        ]

    def _is_ready(self, stage: int) -> bool:
        at = self._num_done[stage]
        if at == len(self._stages[stage]):
            return False
        need = self._needs[stage][at]
        if need is None:
            return True
        needed_stage, place = need
        return self._num_done[needed_stage] > place

    def _advance(self, stage: int) -> Action:
        action = self._stages[stage][self._num_done[stage]]
        self._num_done[stage] += 1
        return action
