"""A schedule: the forwards and backwards of one training step that each stage runs, in order.

one_f_one_b(3, 4), each action printed as stage, kind, microbatch:

    stage 0    0F0 0F1 0F2 0B0 0F3 0B1 0B2 0B3
    stage 1    1F0 1F1 1B0 1F2 1B1 1F3 1B2 1B3
    stage 2    2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3

A schedule is an order, not a timeline: a stage begins its next action once what it needs is there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, chain
from typing import Self, assert_never

from edgepipe.errors import UsageError

MAX_STAGES = 64
MAX_MICROBATCHES = 1024

_ACTION = re.compile(r"(0|[1-9][0-9]{0,3})([FB])(0|[1-9][0-9]{0,3})")


class Kind(StrEnum):
    """What a stage does with a microbatch. A backward that recomputes is still one action."""

    FORWARD = "F"
    BACKWARD = "B"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One stage's forward or backward of one microbatch, all counted from 0: `2B1`."""

    stage: int
    kind: Kind
    microbatch: int

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.microbatch}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The action that prints as `text`. Raises UsageError for anything else."""
        match = _ACTION.fullmatch(text)
        if match is None:
            raise UsageError(
                f"{text[:40]!r} is not an action: write stage, F or B, and microbatch, as in 0F3"
            )
        return cls(stage=int(match[1]), kind=Kind(match[2]), microbatch=int(match[3]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Per stage, its actions in the order in which it runs them.

    Any action list is a value; `schedule_check.check` tells whether it can be run.
    """

    stages: tuple[tuple[Action, ...], ...]

    @property
    def num_stages(self) -> int:
        """P."""
        return len(self.stages)

    @property
    def num_microbatches(self) -> int:
        """M, one more than the last microbatch named; 0 without actions."""
        named = (action.microbatch for action in chain.from_iterable(self.stages))
        return 1 + max(named, default=-1)

    def first(self, num_microbatches: int) -> Schedule:
        """The schedule without its later microbatches; one that can be run stays so."""
        return Schedule(
            stages=tuple(
                tuple(action for action in actions if action.microbatch < num_microbatches)
                for actions in self.stages
            )
        )

    def inflight(self, stage: int) -> int:
        """The most microbatches that the stage holds: forward done, backward not."""
        steps = (1 if action.kind is Kind.FORWARD else -1 for action in self.stages[stage])
        return max(accumulate(steps, initial=0))


def forward(stage: int, microbatch: int) -> Action:
    """As in `0F3`."""
    return Action(stage=stage, kind=Kind.FORWARD, microbatch=microbatch)


def backward(stage: int, microbatch: int) -> Action:
    """As in `2B1`."""
    return Action(stage=stage, kind=Kind.BACKWARD, microbatch=microbatch)


def needed_by(action: Action, *, num_stages: int) -> Action | None:
    """The action whose result it takes; None for the first stage's forwards, fed from outside.

    0F3 ──▶ 1F3 ──▶ 2F3
                     ▼
    0B3 ◀── 1B3 ◀── 2B3

    Every backward also takes what its own forward kept: the stage's list has that before it.
    """
    stage, microbatch = action.stage, action.microbatch
    match action.kind:
        case Kind.FORWARD:
            return forward(stage - 1, microbatch) if stage > 0 else None
        case Kind.BACKWARD if stage == num_stages - 1:
            return forward(stage, microbatch)
        case Kind.BACKWARD:
            return backward(stage + 1, microbatch)
        case _:
            assert_never(action.kind)


class ScheduleName(StrEnum):
    """The schedules that are generated."""

    GPIPE = "gpipe"
    ONE_F_ONE_B = "1f1b"
    ONE_F_ONE_B_K = "1f1b-k"


def generate(
    name: ScheduleName,
    num_stages: int,
    num_microbatches: int,
    *,
    depths: Sequence[int] | None = None,
) -> Schedule:
    """The named schedule; `depths` belongs to `1f1b-k`, and only there.

    Raises UsageError as the generators do, and where depths are missing or too many.
    """
    match name:
        case ScheduleName.ONE_F_ONE_B_K if depths is not None:
            return one_f_one_b_k(num_stages, num_microbatches, depths)
        case ScheduleName.ONE_F_ONE_B_K:
            raise UsageError("the schedule 1f1b-k wants an in-flight depth for each stage")
        case _ if depths is not None:
            raise UsageError(f"the schedule {name} has depths of its own: leave them out")
        case ScheduleName.GPIPE:
            return gpipe(num_stages, num_microbatches)
        case ScheduleName.ONE_F_ONE_B:
            return one_f_one_b(num_stages, num_microbatches)
        case _:
            assert_never(name)


def gpipe(num_stages: int, num_microbatches: int) -> Schedule:
    """All forwards, then all backwards (Huang et al. 2019). Raises UsageError for a bad size."""
    check_size(num_stages, num_microbatches)
    return one_f_one_b_k(num_stages, num_microbatches, [num_microbatches] * num_stages)


def one_f_one_b(num_stages: int, num_microbatches: int) -> Schedule:
    """Classic 1F1B: stage i holds at most P - i microbatches (Narayanan et al. 2019, 2021).

    Raises UsageError for a bad size.
    """
    return one_f_one_b_k(num_stages, num_microbatches, range(num_stages, 0, -1))


def one_f_one_b_k(num_stages: int, num_microbatches: int, depths: Sequence[int]) -> Schedule:
    """1F1B with a chosen in-flight depth per stage, of which `usable_depths` are taken.

    Raises UsageError for a bad size, or depths that are not one for each stage, each at least 1.
    """
    check_size(num_stages, num_microbatches)
    if len(depths) != num_stages or min(depths) < 1:
        raise UsageError(
            f"1f1b-k wants {num_stages} in-flight depths of at least 1, one for each stage, "
            f"not {', '.join(map(str, depths[: MAX_STAGES + 1])) or 'none'}"
        )
    usable = usable_depths(depths, num_microbatches)
    return Schedule(
        stages=tuple(
            _alternate(stage, depth, num_microbatches) for stage, depth in enumerate(usable)
        )
    )


def usable_depths(depths: Sequence[int], num_microbatches: int) -> tuple[int, ...]:
    """The depths that a pipeline can reach: at most M, and never rising from stage to stage.

    What a stage holds, the stage before it holds too, so a greater depth would never be reached.
    Waiting for it would deadlock: with K = 2, 3 stage 0 runs 0F2 after 0B0, which needs 1B0, which
    stage 1 runs after 1F2, which needs 0F2. Depths that do not rise never deadlock.
    """
    return tuple(accumulate((min(depth, num_microbatches) for depth in depths), min))


def _alternate(stage: int, depth: int, num_microbatches: int) -> tuple[Action, ...]:
    """`depth` forwards, a backward and a forward in turn, then the backwards that are left."""
    forwards = [forward(stage, microbatch) for microbatch in range(num_microbatches)]
    backwards = [backward(stage, microbatch) for microbatch in range(num_microbatches)]
    num_turns = num_microbatches - depth
    turns = zip(backwards[:num_turns], forwards[depth:], strict=True)
    return (*forwards[:depth], *chain.from_iterable(turns), *backwards[num_turns:])


def check_size(num_stages: int, num_microbatches: int) -> None:
    """Raises UsageError outside 1 to MAX_STAGES stages and 1 to MAX_MICROBATCHES microbatches."""
    if not 1 <= num_stages <= MAX_STAGES:
        raise UsageError(f"a schedule has 1 to {MAX_STAGES} stages, not {num_stages}")
    if not 1 <= num_microbatches <= MAX_MICROBATCHES:
        raise UsageError(
            f"a schedule has 1 to {MAX_MICROBATCHES} microbatches, not {num_microbatches}"
        )
