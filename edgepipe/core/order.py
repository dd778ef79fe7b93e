"""What a stage does for one order, step by step, and what each piece of work waits for.

of a stage between two others       0F0 … 0B3   settle ─▶ ready … decision ─▶ conclude
of the first, embedding tied        take rows   0F0 … 0B3   give gradient   settle   conclude
of the last, embedding tied         give rows   2F0 … 2B3   add gradient    settle   conclude
of an evaluation                    0F0 0F1 …   settle ─▶ ready         a rehearsal has backwards

A tied embedding is the last stage's. The first asks for the rows of the tokens that it sees, and
gives their gradients back (DESIGN §2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from edgepipe.core.frame import Codec
from edgepipe.core.schedule import MAX_MICROBATCHES, Action, Kind, backward, forward
from edgepipe.core.training import Microbatch, Purpose
from edgepipe.errors import WireError

MAX_SEQUENCES = 1 << 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A step of training, or an evaluation, as one stage is told of it.

    `number` counts a job's orders, `step` those that train. `loss_weight` is what the loss of one
    target counts for; the codecs are of what is sent down and up.
    """

    number: int
    step: int
    purpose: Purpose
    actions: tuple[Action, ...]
    microbatches: tuple[Microbatch, ...]
    loss_weight: float
    codec_forward: Codec = Codec.NONE
    codec_backward: Codec = Codec.NONE

    @property
    def num_rows(self) -> int:
        """Tokens of all its microbatches."""
        return sum(microbatch.num_rows for microbatch in self.microbatches)

    @property
    def has_backwards(self) -> bool:
        """Whether gradients come of it."""
        return self.purpose is not Purpose.EVALUATE

    @property
    def is_decided(self) -> bool:
        """Whether it waits for a decision."""
        return self.purpose is Purpose.TRAIN


class Input(StrEnum):
    """What a piece of work may wait for."""

    TOKENS = "tokens"
    TARGETS = "targets"
    ACTIVATIONS = "activations"
    GRADIENT = "gradient"
    WANTED_ROWS = "wanted rows"
    ROWS = "rows"
    ROW_IDS = "ids of row gradients"
    ROW_GRADIENTS = "row gradients"
    DECISION = "decision"


class Need(NamedTuple):
    """An input of a microbatch, or of the order as a whole (microbatch 0)."""

    kind: Input
    microbatch: int = 0


class Task(StrEnum):
    """What a piece of work is."""

    TAKE_ROWS = "take rows"
    GIVE_ROWS = "give rows"
    ACT = "act"
    GIVE_GRADIENT = "give gradient"
    ADD_GRADIENT = "add gradient"
    SETTLE = "settle"
    CONCLUDE = "conclude"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One piece of work of an order; `action` where the task is to act."""

    order: Order
    task: Task
    action: Action | None = None
    needs: tuple[Need, ...] = ()

    @property
    def microbatch(self) -> Microbatch:
        """Whose forward or backward it is."""
        assert self.action is not None
        return self.order.microbatches[self.action.microbatch]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Which stage of how many; `exchanges` where a tied embedding is on the first and the last."""

    stage: int
    num_stages: int
    exchanges: bool = False

    @property
    def is_first(self) -> bool:
        """It has the embedding, and is given tokens."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """It has the head, and is given targets."""
        return self.stage == self.num_stages - 1

    def work(self, order: Order) -> Iterator[Work]:
        """All that the stage does for an order, in order."""
        if self.exchanges and self.is_first:
            yield Work(order=order, task=Task.TAKE_ROWS, needs=(Need(Input.ROWS),))
        if self.exchanges and self.is_last:
            yield Work(order=order, task=Task.GIVE_ROWS, needs=(Need(Input.WANTED_ROWS),))
        for action in order.actions:
            needs = tuple(self._needs(action))
            yield Work(order=order, task=Task.ACT, action=action, needs=needs)
        if order.has_backwards and self.exchanges and self.is_first:
            yield Work(order=order, task=Task.GIVE_GRADIENT)
        if order.has_backwards and self.exchanges and self.is_last:
            needs = (Need(Input.ROW_IDS), Need(Input.ROW_GRADIENTS))
            yield Work(order=order, task=Task.ADD_GRADIENT, needs=needs)
        yield Work(order=order, task=Task.SETTLE)
        if order.is_decided:
            yield Work(order=order, task=Task.CONCLUDE, needs=(Need(Input.DECISION),))

    def _needs(self, action: Action) -> Iterator[Need]:
        """What an action takes from outside of the stage."""
        if action.kind is Kind.FORWARD:
            what = Input.TOKENS if self.is_first else Input.ACTIVATIONS
            yield Need(what, action.microbatch)
            if self.is_last:
                yield Need(Input.TARGETS, action.microbatch)
        elif not self.is_last:
            yield Need(Input.GRADIENT, action.microbatch)

    def needs(self, order: Order) -> frozenset[Need]:
        """All that the stage is sent for an order."""
        return frozenset(need for work in self.work(order) for need in work.needs)

    def check(self, order: Order) -> None:
        """Raise WireError unless the actions are the stage's own, complete, and in order."""
        num = len(order.microbatches)
        if not 1 <= num <= MAX_MICROBATCHES:
            raise WireError(f"an order has 1 to {MAX_MICROBATCHES} microbatches, not {num}")
        for microbatch in order.microbatches:
            _check_lengths(microbatch.lengths)
        kinds = (forward, backward) if order.has_backwards else (forward,)
        wanted = {make(self.stage, number) for make in kinds for number in range(num)}
        if len(order.actions) != len(wanted) or set(order.actions) != wanted:
            raise WireError(
                f"stage {self.stage} was not given each of its actions once: "
                f"{forward(self.stage, 0)} to {kinds[-1](self.stage, num - 1)}"
            )
        begun = set[int]()
        for action in order.actions:
            if action.kind is Kind.BACKWARD and action.microbatch not in begun:
                raise WireError(f"stage {self.stage} was told {action} before its forward")
            begun.add(action.microbatch)


def _check_lengths(lengths: Sequence[int]) -> None:
    if not 1 <= len(lengths) <= MAX_SEQUENCES or min(lengths) < 1:
        raise WireError(
            f"a microbatch has 1 to {MAX_SEQUENCES} sequences of at least one token, not {lengths}"
        )
