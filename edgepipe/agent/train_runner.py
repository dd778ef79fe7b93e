"""Runs one stage in training: receive, decode, compute, encode and send, each while others work.

    upstream   ── activations ─▶ [inbox] ─▶ compute ─▶ [outbox] ── activations ─▶   downstream
               ◀─ gradients ── [outbox] ◀─ compute ◀─ [inbox] ◀── gradients ────

What is computed next is `StageTraining`'s word; the order's schedule was checked for deadlocks by
whoever made it. Nothing here waits: a send is queued, and what arrives is kept until it is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.resident import peak_resident_bytes
from edgepipe.agent.slowdown import stretch
from edgepipe.agent.train_frames import Inbox, Outbox
from edgepipe.core.frame import Codec, Direction, Frame, Header
from edgepipe.core.order import Input, Need, Order, Task, Work
from edgepipe.core.schedule import Kind
from edgepipe.core.stage_training import StageTraining
from edgepipe.core.train_intake import Exchanged, Side, TrainIntake
from edgepipe.core.training import IGNORED, Broken, Decision, Purpose, StageApplied, StageReady
from edgepipe.engine.training import Backwarded, Forwarded, Targets, TrainingEngine
from edgepipe.errors import StageLost, WireError
from edgepipe.transport.link import Link

DECODED_AHEAD = 2
"""Pieces of work whose inputs are decoded before they are due."""
EVALUATED_AHEAD = 2
"""Frames of an evaluation that may wait to be sent: it has no gradients to hold it back."""

NOT_FRAMES = frozenset({Input.TOKENS, Input.TARGETS, Input.DECISION})
"""Inputs that come from the coordinator."""

Report = StageReady | StageApplied
Plan = tuple[Callable[[], Any], Callable[[Any], None]]
"""What to compute, and what to do with the result on the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """A microbatch's tokens and targets, int32 [rows], each where the stage needs it."""

    tokens: np.ndarray[Any, np.dtype[np.int32]] | None = None
    targets: np.ndarray[Any, np.dtype[np.int32]] | None = None


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What one order has come to so far."""

    loss_sums: dict[int, float] = field(default_factory=dict)
    broken: Broken | None = None
    busy_s: float = 0.0
    forward_s: float = 0.0
    backward_s: float = 0.0


@dataclass(slots=True, kw_only=True)
class TrainRunner:
    """One stage at work. `run` ends only by an error or by being cancelled.

    `upstream` and `downstream` are the boundaries to the stages before and after, None at the
    ends; `exchange` is the first stage's and the last one's, by which the ring is closed.
    """

    engine: TrainingEngine
    device: torch.device
    slowdown: float
    compute: ComputeThread
    coding: ComputeThread
    state: StageTraining
    intake: TrainIntake
    vocab_size: int
    upstream: Link | None
    downstream: Link | None
    exchange: Link | None
    emit: Callable[[Report], None]
    _computing: bool = False
    _ids: dict[tuple[int, int], Ids] = field(default_factory=dict)
    _wanted: dict[int, torch.Tensor] = field(default_factory=dict)
    _decisions: dict[int, Decision] = field(default_factory=dict)
    _tally: _Tally = field(default_factory=_Tally)
    _kept: asyncio.Event = field(default_factory=asyncio.Event)
    _broken: asyncio.Future[None] = field(default_factory=asyncio.Future)
    _inbox: Inbox = field(init=False)
    _down: Outbox | None = field(init=False)
    _up: Outbox | None = field(init=False)
    _across: Outbox | None = field(init=False)

    def __post_init__(self) -> None:
        self._inbox = Inbox(device=self.device, coding=self.coding)
        self._down, self._up, self._across = (
            Outbox(link=link, coding=self.coding, fail=self._fail) if link is not None else None
            for link in (self.downstream, self.upstream, self.exchange)
        )

    async def run(self) -> None:
        """Serve orders until cancelled. Raises StageLost, WireError, or what the engine raised."""
        sides = (
            (self.upstream, Side.UPSTREAM),
            (self.downstream, Side.DOWNSTREAM),
            (self.exchange, Side.EXCHANGE),
        )
        ends: list[asyncio.Future[Any]] = [self._broken]
        for link, side in sides:
            if link is not None:
                link.listen(
                    on_room=self._advance, on_frame=partial(self._frame_arrived, link, side)
                )
                ends.append(asyncio.ensure_future(link.ended()))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            ended = next(end for end in ends if end.done())
            raise ended.result() or StageLost("a neighbour of this stage hung up")
        finally:
            for end in ends:
                end.cancel()

    # ------------------------------------------------------------------------------- what comes

    def give(self, order: Order) -> None:
        """Take an order in. Raises WireError where it cannot be carried out."""
        if any(each.num_rows > self.intake.max_rows for each in order.microbatches):
            raise WireError(f"a microbatch has more than {self.intake.max_rows} tokens")
        if order.num_rows > self.intake.max_order_rows:
            raise WireError(f"an order has more than {self.intake.max_order_rows} tokens")
        self.state.give(order)
        self._advance()

    def give_ids(self, number: int, microbatch: int, ids: Ids) -> None:
        """A microbatch's tokens, or targets, or both. Raises WireError where they do not fit."""
        order = self.state.order(number)
        if order is None or microbatch >= len(order.microbatches):
            raise WireError(f"tokens of microbatch {microbatch} came, which was not ordered")
        num_rows = order.microbatches[microbatch].num_rows
        for values, kind in ((ids.tokens, Input.TOKENS), (ids.targets, Input.TARGETS)):
            if values is None:
                continue
            counted = values if kind is Input.TOKENS else values[values != IGNORED]
            if len(values) != num_rows or np.any((counted < 0) | (counted >= self.vocab_size)):
                raise WireError(f"the {kind} of microbatch {microbatch} do not fit the order")
            self.state.arrive(number, Need(kind, microbatch))
        self._ids[number, microbatch] = ids
        if ids.tokens is not None and self.state.seat.exchanges:
            self._want_rows(order)
        self._advance()

    def decide(self, decision: Decision) -> None:
        """What becomes of an order."""
        self.state.arrive(decision.order, Need(Input.DECISION))
        self._decisions[decision.order] = decision
        self._advance()

    def keep(self) -> None:
        """From now on, until `let_go`, what was trained stays as it is."""
        self.state.held = True
        self._kept.set()

    async def kept(self) -> None:
        """Return once what was trained stays as it is, since a decision asked for that."""
        await self._kept.wait()

    def let_go(self) -> None:
        """What was kept has been read."""
        self._kept.clear()
        self.state.held = False
        self._advance()

    def _frame_arrived(self, link: Link, side: Side, frame: Frame) -> None:
        need = self.intake.takes(frame.header, side)
        if need is None:
            link.consumed()
            return
        self.state.arrive(frame.header.step, need)
        self._inbox.hold((frame.header.step, need), frame, link)
        self._advance()

    def _want_rows(self, order: Order) -> None:
        """Ask for the embedding's rows of an order, once all of its tokens are there."""
        tokens = [
            ids.tokens
            for index in range(len(order.microbatches))
            if (ids := self._ids.get((order.number, index))) is not None and ids.tokens is not None
        ]
        if len(tokens) < len(order.microbatches):
            return
        wanted = torch.from_numpy(np.unique(np.concatenate(tokens)).astype(np.int64))
        self._wanted[order.number] = wanted
        assert self._across is not None
        self._across.put(self._exchange_header(order.number, Exchanged.WANTED_IDS), wanted)

    # ------------------------------------------------------------------------- what is computed

    def _advance(self) -> None:
        """Send what is ready, and begin the next piece of work if the thread is free."""
        for box in (self._down, self._up, self._across):
            if box is not None:
                box.drain()
        for work in self.state.peek(DECODED_AHEAD):
            for need in work.needs:
                self._inbox.decode((work.order.number, need))
        if self._computing or self._is_ahead():
            return
        work_or_none = self.state.next()
        if work_or_none is not None:
            self._computing = True
            self._start(work_or_none)

    def _is_ahead(self) -> bool:
        upcoming = self.state.peek(1)
        return (
            self._down is not None
            and bool(upcoming)
            and not upcoming[0].order.trains
            and self._down.num_waiting >= EVALUATED_AHEAD
        )

    def _start(self, work: Work) -> None:
        compute, done = self._plan(work)

        def timed() -> tuple[Any, float]:
            begin = time.perf_counter()
            result = compute()
            stretch(begin, self.slowdown)
            return result, time.perf_counter() - begin

        def finished(outcome: tuple[Any, float]) -> None:
            result, seconds = outcome
            self._computing = False
            self._tally.busy_s += seconds
            if work.action is not None and work.action.kind is Kind.FORWARD:
                self._tally.forward_s += seconds
            elif work.action is not None:
                self._tally.backward_s += seconds
            done(result)
            self.state.finish(work)
            self._advance()

        self.compute.submit(timed, finished, self._fail)

    def _plan(self, work: Work) -> Plan:
        """What to compute, on the compute thread, and what to do with the result."""
        rows = {
            need.kind: self._inbox.take((work.order.number, need))
            for need in work.needs
            if need.kind not in NOT_FRAMES
        }
        match work.task:
            case Task.ACT if work.action is not None and work.action.kind is Kind.FORWARD:
                return self._forward(work, rows.get(Input.ACTIVATIONS))
            case Task.ACT:
                return self._backward(work, rows.get(Input.GRADIENT))
            case Task.SETTLE:
                return self._sum_of_squares(work.order), partial(self._ready, work.order)
            case Task.CONCLUDE:
                return self._conclude(self._decisions.pop(work.order.number))
            case _:
                return self._plan_exchange(work, rows)

    def _plan_exchange(self, work: Work, rows: Mapping[Input, Callable[[], torch.Tensor]]) -> Plan:
        """Work on a tied embedding that is on two stages."""
        engine, number = self.engine, work.order.number
        if work.task is Task.TAKE_ROWS:
            wanted = self._wanted.pop(number)
            return lambda: engine.set_embedding_rows(wanted, rows[Input.ROWS]()), _ignore
        if work.task is Task.GIVE_ROWS:
            ids = rows[Input.WANTED_ROWS]
            return lambda: engine.embedding_rows(self._checked(ids())), partial(self._give, number)
        if work.task is Task.GIVE_GRADIENT:
            return engine.embedding_gradient, partial(self._give_gradient, number)
        ids, gradients = rows[Input.ROW_IDS], rows[Input.ROW_GRADIENTS]
        return lambda: engine.add_embedding_gradient(self._checked(ids()), gradients()), _ignore

    def _forward(self, work: Work, rows: Callable[[], torch.Tensor] | None) -> Plan:
        order, microbatch = work.order, work.microbatch
        ids = self._ids.pop((order.number, microbatch.index), Ids())

        def compute() -> Forwarded:
            inputs = rows() if rows is not None else self._tensor(ids.tokens)
            self._check_rows(inputs, microbatch.num_rows)
            targets = (
                Targets(ids=self._tensor(ids.targets), weight=order.loss_weight)
                if ids.targets is not None
                else None
            )
            purpose = Purpose.TRAIN if order.trains else Purpose.EVALUATE
            return self.engine.forward(microbatch, inputs, purpose=purpose, targets=targets)

        def done(result: Forwarded) -> None:
            self._note(result.broken)
            if result.loss_sum is not None:
                self._tally.loss_sums[microbatch.index] = result.loss_sum
            if self._down is not None:
                assert result.hidden is not None
                header = self._header(order, microbatch.index, Direction.FORWARD)
                self._down.put(header, result.hidden)

        return compute, done

    def _backward(self, work: Work, gradient: Callable[[], torch.Tensor] | None) -> Plan:
        order, microbatch = work.order, work.microbatch

        def compute() -> Backwarded:
            if gradient is None:
                return self.engine.backward(microbatch.index, None)
            rows = gradient()
            self._check_rows(rows, microbatch.num_rows)
            return self.engine.backward(microbatch.index, rows)

        def done(result: Backwarded) -> None:
            self._note(result.broken)
            if self._up is not None:
                assert result.gradient is not None
                header = self._header(order, microbatch.index, Direction.BACKWARD)
                self._up.put(header, result.gradient)

        return compute, done

    def _give(self, number: int, rows: torch.Tensor) -> None:
        assert self._across is not None
        header = self._exchange_header(number, 0)._replace(direction=Direction.FORWARD)
        self._across.put(header, rows)

    def _give_gradient(self, number: int, gradient: tuple[torch.Tensor, torch.Tensor]) -> None:
        assert self._across is not None
        ids, rows = gradient
        self._across.put(self._exchange_header(number, Exchanged.GRADIENT_IDS), ids)
        self._across.put(self._exchange_header(number, Exchanged.GRADIENT_ROWS), rows)

    def _sum_of_squares(self, order: Order) -> Callable[[], float]:
        if not order.trains:
            return lambda: 0.0
        return lambda: self.engine.gradients().sum_of_squares

    def _ready(self, order: Order, sum_of_squares: float) -> None:
        tally, self._tally = self._tally, _Tally()
        losses = [tally.loss_sums[index] for index in sorted(tally.loss_sums)]
        self.emit(
            StageReady(
                order=order.number,
                sum_of_squares=sum_of_squares,
                loss_sums=tuple(losses),
                broken=tally.broken,
                busy_s=tally.busy_s,
                forward_s=tally.forward_s,
                backward_s=tally.backward_s,
                sent_bytes=_taken(self._down),
                returned_bytes=_taken(self._up),
                inflight=self.state.most_inflight,
            )
        )

    def _conclude(self, decision: Decision) -> Plan:
        update = decision.update

        def compute() -> int:
            if update is None:
                self.engine.discard()
            else:
                self.engine.apply(update)
            return peak_resident_bytes()

        def done(peak_bytes: int) -> None:
            if decision.export:
                self.keep()
            self.emit(StageApplied(order=decision.order, peak_bytes=peak_bytes))

        return compute, done

    # ---------------------------------------------------------------------------------- details

    def _tensor(self, ids: np.ndarray[Any, np.dtype[np.int32]] | None) -> torch.Tensor:
        assert ids is not None
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    @staticmethod
    def _check_rows(rows: torch.Tensor, num_rows: int) -> None:
        if rows.shape[0] != num_rows:
            raise WireError(f"a frame of {rows.shape[0]} rows came for {num_rows} tokens")

    def _checked(self, ids: torch.Tensor) -> torch.Tensor:
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise WireError("rows were asked for that the embedding does not have")
        return ids

    def _note(self, broken: Broken | None) -> None:
        if self._tally.broken is None:
            self._tally.broken = broken

    def _header(self, order: Order, microbatch: int, direction: Direction) -> Header:
        forward = direction is Direction.FORWARD
        return Header(
            job=self.intake.job,
            epoch=self.intake.epoch,
            step=order.number,
            group=microbatch,
            direction=direction,
            codec=order.codec_forward if forward else order.codec_backward,
        )

    def _exchange_header(self, number: int, group: int) -> Header:
        return Header(
            job=self.intake.job,
            epoch=self.intake.epoch,
            step=number,
            group=group,
            direction=Direction.BACKWARD,
            codec=Codec.NONE,
        )

    def _fail(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)


def _taken(box: Outbox | None) -> int:
    """The bytes of an outbox, which begins to count anew."""
    if box is None:
        return 0
    sent, box.sent_bytes = box.sent_bytes, 0
    return sent


def _ignore(_result: object) -> None:
    pass
