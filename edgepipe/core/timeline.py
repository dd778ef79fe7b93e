"""When stages that run their tasks in order run them, and when frames travel between them.

A discrete-event simulation. A stage runs one task at a time, in the order of its list, each once
the frame that it takes is there. A result is sent the moment that its task ends, and its stage
goes on: credits suffice (edgepipe.core.schedule_credits), so that no send waits for a buffer. How
frames travel is told in edgepipe.core.network.

The end of a task is known when it begins. The only events are ends of tasks, at most one per
stage, and of frames that share what they occupy.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from math import inf
from typing import Generic, TypeVar

from edgepipe.core.hop import Hop
from edgepipe.core.network import Network, Sent

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
    """An action's result on its way: it occupies the hop from begin to end, and then arrives.

    Between them it may have been slower than it is alone.
    """

    action: ActionT
    hop: Hop
    begin_s: float
    end_s: float
    arrive_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline(Generic[ActionT]):
    """Per stage its actions in the order run, and all transfers in the order begun."""

    stages: tuple[tuple[Span[ActionT], ...], ...]
    transfers: tuple[Transfer[ActionT], ...]

    @property
    def end_s(self) -> float:
        """When the last action ends; 0 without actions."""
        return max((spans[-1].end_s for spans in self.stages if spans), default=0.0)


def timeline(stages: Sequence[Sequence[Task[ActionT]]]) -> Timeline[ActionT]:
    """Runs every stage's tasks in order.

    No action stands twice, none's result is taken twice, all that one stage sends another goes over
    one hop, and no stages wait for one another (`schedule_check.check`).
    """
    return _Run(stages).to_the_end()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Result(Generic[ActionT]):
    """An action's result, and the stage and the place in its list that take it."""

    action: ActionT
    hop: Hop
    receiver: int
    place: int


class _Run(Generic[ActionT]):
    """The state of one simulation."""

    def __init__(self, stages: Sequence[Sequence[Task[ActionT]]]) -> None:
        self._tasks = stages
        results = {
            task.takes.action: _Result(
                action=task.takes.action, hop=task.takes.hop, receiver=stage, place=at
            )
            for stage, tasks in enumerate(stages)
            for at, task in enumerate(tasks)
            if task.takes is not None
        }
        self._results = [[results.get(task.action) for task in tasks] for tasks in stages]
        self._there_s: list[list[float | None]] = [
            [0.0 if task.takes is None else None for task in tasks] for tasks in stages
        ]
        self._spans: list[list[Span[ActionT]]] = [[] for _ in stages]
        self._transfers: list[Transfer[ActionT]] = []
        self._idle_since_s: list[float | None] = [0.0] * len(stages)
        self._ends: list[tuple[float, int]] = []
        self._network = Network[_Result[ActionT]](self._hops())

    def _hops(self) -> dict[tuple[int, int], Hop]:
        """Of every stage that sends another something, and that other one, the hop between."""
        hops: dict[tuple[int, int], Hop] = {}
        for sender, found in enumerate(self._results):
            for result in filter(None, found):
                hop = hops.setdefault((sender, result.receiver), result.hop)
                assert hop == result.hop, "one hop from a stage to another"
        return hops

    def to_the_end(self) -> Timeline[ActionT]:
        for stage in range(len(self._tasks)):
            self._begin_next(stage)
        while self._ends or self._network.next_s < inf:
            if self._ends and self._ends[0][0] <= self._network.next_s:
                self._finish(*heappop(self._ends))
            else:
                self._deliver(self._network.pop())
        num_run = [len(spans) for spans in self._spans]
        assert num_run == [len(tasks) for tasks in self._tasks], "stages wait for one another"
        begun = sorted(self._transfers, key=lambda transfer: transfer.begin_s)
        return Timeline(stages=tuple(map(tuple, self._spans)), transfers=tuple(begun))

    def _begin_next(self, stage: int) -> None:
        """Begins the stage's next task if the stage is idle and what the task takes has left."""
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
        result = self._results[stage][len(self._spans[stage]) - 1]
        if result is not None:
            sent = self._network.send((stage, result.receiver), result, now_s)
            if sent is not None:
                self._deliver(sent)
        self._begin_next(stage)

    def _deliver(self, sent: Sent[_Result[ActionT]]) -> None:
        result = sent.frame
        arrive_s = sent.end_s + result.hop.latency_s
        self._transfers.append(
            Transfer(
                action=result.action,
                hop=result.hop,
                begin_s=sent.begin_s,
                end_s=sent.end_s,
                arrive_s=arrive_s,
            )
        )
        self._there_s[result.receiver][result.place] = arrive_s
        self._begin_next(result.receiver)
