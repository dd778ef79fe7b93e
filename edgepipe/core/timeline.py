"""When stages that run their tasks in order run them, and when frames travel between them.

A discrete-event simulation. A stage runs one task at a time, in the order of its list, each once
the frame that it takes is there. A result is sent the moment that its task ends, and its stage
goes on: credits suffice (edgepipe.core.schedule_credits), so that no send waits for a buffer. A
frame queues for everything that its hop occupies at once, first come, first served: it begins when
all frames that were sent before it, and want any of the same, have left.

So a frame's begin is known when it is sent, and the end of a task when it begins. The only events
are ends of tasks, at most one per stage. Of tasks that end together, the first stage's sends first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Generic, TypeVar

from edgepipe.core.hop import Hop

ActionT = TypeVar("ActionT", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Generic[ActionT]):
    """The result of another stage's action, which comes over a hop."""

    action: ActionT
    hop: Hop


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Generic[ActionT]):
    """An action, the seconds that it keeps its stage busy, and the frame that it waits for."""

    action: ActionT
    seconds: float
    takes: Input[ActionT] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Span(Generic[ActionT]):
    """An action's time on its stage."""

    action: ActionT
    begin_s: float
    end_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer(Generic[ActionT]):
    """An action's result on its way: it occupies the hop from begin to end, and then arrives."""

    action: ActionT
    hop: Hop
    begin_s: float
    end_s: float
    arrive_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline(Generic[ActionT]):
    """Per stage its actions in the order run, and all transfers in the order sent."""

    stages: tuple[tuple[Span[ActionT], ...], ...]
    transfers: tuple[Transfer[ActionT], ...]

    @property
    def end_s(self) -> float:
        """When the last action ends; 0 without actions."""
        return max((spans[-1].end_s for spans in self.stages if spans), default=0.0)


def timeline(stages: Sequence[Sequence[Task[ActionT]]]) -> Timeline[ActionT]:
    """Runs every stage's tasks in order.

    No action stands twice, none's result is taken twice, and no stages wait for one another
    (`schedule_check.check`).
    """
    return _Run(stages).to_the_end()


class _Run(Generic[ActionT]):
    """The state of one simulation."""

    def __init__(self, stages: Sequence[Sequence[Task[ActionT]]]) -> None:
        self._tasks = stages
        takers = {
            task.takes.action: (stage, at, task.takes.hop)
            for stage, tasks in enumerate(stages)
            for at, task in enumerate(tasks)
            if task.takes is not None
        }
        self._takers = [[takers.get(task.action) for task in tasks] for tasks in stages]
        self._there_s: list[list[float | None]] = [
            [0.0 if task.takes is None else None for task in tasks] for tasks in stages
        ]
        self._spans: list[list[Span[ActionT]]] = [[] for _ in stages]
        self._transfers: list[Transfer[ActionT]] = []
        self._idle_since_s: list[float | None] = [0.0] * len(stages)
        self._free_s = defaultdict[str, float](float)
        self._ends: list[tuple[float, int]] = []

    def to_the_end(self) -> Timeline[ActionT]:
        for stage in range(len(self._tasks)):
            self._begin_next(stage)
        while self._ends:
            self._finish(*heappop(self._ends))
        num_run = [len(spans) for spans in self._spans]
        assert num_run == [len(tasks) for tasks in self._tasks], "stages wait for one another"
        return Timeline(stages=tuple(map(tuple, self._spans)), transfers=tuple(self._transfers))

    def _begin_next(self, stage: int) -> None:
        """Begins the stage's next task if the stage is idle and what the task takes is sent."""
        at, idle_since_s = len(self._spans[stage]), self._idle_since_s[stage]
        if idle_since_s is None or at == len(self._tasks[stage]):
            return
        there_s = self._there_s[stage][at]
        if there_s is None:
            return
        task, begin_s = self._tasks[stage][at], max(idle_since_s, there_s)
        end_s = begin_s + task.seconds
        self._spans[stage].append(Span(action=task.action, begin_s=begin_s, end_s=end_s))
        self._idle_since_s[stage] = None
        heappush(self._ends, (end_s, stage))

    def _finish(self, now_s: float, stage: int) -> None:
        self._idle_since_s[stage] = now_s
        at = len(self._spans[stage]) - 1
        taker = self._takers[stage][at]
        if taker is not None:
            receiver, place, hop = taker
            self._there_s[receiver][place] = self._send(self._tasks[stage][at].action, hop, now_s)
            self._begin_next(receiver)
        self._begin_next(stage)

    def _send(self, action: ActionT, hop: Hop, now_s: float) -> float:
        """When the action's result arrives."""
        begin_s = max([now_s, *[self._free_s[name] for name in hop.resources]])
        end_s = begin_s + hop.seconds
        for name in hop.resources:
            self._free_s[name] = end_s
        arrive_s = end_s + hop.latency_s
        self._transfers.append(
            Transfer(action=action, hop=hop, begin_s=begin_s, end_s=end_s, arrive_s=arrive_s)
        )
        return arrive_s
