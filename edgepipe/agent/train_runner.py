"""Runs one stage in training: receive, decode, compute, encode and send, each while others work.

    upstream   ── activations ─▶ [inbox] ─▶ compute ─▶ [outbox] ── activations ─▶   downstream
               ◀─ gradients ── [outbox] ◀─ compute ◀─ [inbox] ◀── gradients ────

What is computed next is `StageTraining`'s word; the order's schedule was checked for deadlocks by
whoever made it. Nothing here waits: a send is queued, and what arrives is kept until it is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import structlog
import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.duty import Duty
from edgepipe.agent.figures import ByCodec, Content, Figures, Neighbours, Way
from edgepipe.agent.resident import peak_resident_bytes
from edgepipe.agent.role import Depths
from edgepipe.agent.slowdown import stretch
from edgepipe.agent.train_exchange import Exchange
from edgepipe.agent.train_frames import Inbox, Outbox
from edgepipe.agent.train_passes import Ids, Passes, Plan
from edgepipe.agent.train_tally import Tally
from edgepipe.core.frame import Frame
from edgepipe.core.order import Input, Need, Order, Task, Work
from edgepipe.core.schedule import Kind
from edgepipe.core.stage_training import StageTraining
from edgepipe.core.train_intake import Side, TrainIntake
from edgepipe.core.training import IGNORED, Decision, StageApplied, StageReady
from edgepipe.engine.training import TrainingEngine
from edgepipe.errors import StageLost, WireError
from edgepipe.transport.link import Link

DECODED_AHEAD = 2
"""Pieces of work whose inputs are decoded before they are due."""
EVALUATED_AHEAD = 2
"""Frames of an evaluation that may wait to be sent: it has no gradients to hold it back."""

NOT_FRAMES = frozenset({Input.TOKENS, Input.TARGETS, Input.DECISION})
"""Inputs that come from the coordinator."""

Report = StageReady | StageApplied

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class TrainRunner:
    """One stage at work. `run` ends only by an error or by being cancelled.

    `upstream` and `downstream` are the boundaries to the stages before and after, None at the
    ends; `exchange` is the first stage's and the last one's, by which the ring is closed.
    `duty` and `figures` are the worker's.
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
    duty: Duty = field(default_factory=Duty)
    figures: Figures = field(default_factory=Figures)
    neighbours: Neighbours = field(default_factory=Neighbours)
    _computing: bool = False
    _stopped: bool = False
    _ids: dict[tuple[int, int], Ids] = field(default_factory=dict)
    _decisions: dict[int, Decision] = field(default_factory=dict)
    _tally: Tally = field(default_factory=Tally)
    _given_s: dict[int, float] = field(default_factory=dict)
    _ended_s: float = 0.0
    _kept: asyncio.Event = field(default_factory=asyncio.Event)
    _broken: asyncio.Future[None] = field(default_factory=asyncio.Future)
    _inbox: Inbox = field(init=False)
    _down: Outbox | None = field(init=False)
    _up: Outbox | None = field(init=False)
    _across: Exchange | None = field(init=False)
    _passes: Passes = field(init=False)
    _received: dict[Side, ByCodec] = field(init=False)

    def __post_init__(self) -> None:
        self._inbox = Inbox(device=self.device, coding=self.coding)
        before, after = self.neighbours.upstream, self.neighbours.downstream
        around = before if self.state.seat.is_first else after
        self._down = self._outbox(self.downstream, after, Content.ACTIVATIONS)
        self._up = self._outbox(self.upstream, before, Content.GRADIENTS)
        across = self._outbox(self.exchange, around, Content.EMBEDDING)
        self._received = {
            side: self.figures.traffic(peer, Way.RECEIVED, content)
            for side, peer, content in (
                (Side.UPSTREAM, before, Content.ACTIVATIONS),
                (Side.DOWNSTREAM, after, Content.GRADIENTS),
                (Side.EXCHANGE, around, Content.EMBEDDING),
            )
        }
        self._passes = Passes(
            job=self.intake.job,
            epoch=self.intake.epoch,
            engine=self.engine,
            device=self.device,
            down=self._down,
            up=self._up,
        )
        self._across = None if across is None else self._exchange(across)

    def _outbox(self, link: Link | None, peer: str | None, content: Content) -> Outbox | None:
        if link is None:
            return None
        return Outbox(
            link=link,
            coding=self.coding,
            fail=self._fail,
            ready=self._advance,
            traffic=self.figures.traffic(peer, Way.SENT, content),
        )

    def _exchange(self, outbox: Outbox) -> Exchange:
        return Exchange(
            job=self.intake.job,
            epoch=self.intake.epoch,
            engine=self.engine,
            vocab_size=self.vocab_size,
            outbox=outbox,
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
            self._stopped = True
            for end in ends:
                end.cancel()

    def depths(self) -> Depths:
        """See `Role.depths`."""
        return Depths(
            queued_frames=self._inbox.num_held,
            unsent_frames=sum(box.num_waiting for box in self._outboxes()),
            inflight=self.state.inflight,
        )

    # ------------------------------------------------------------------------------- what comes

    def give(self, order: Order) -> None:
        """Take an order in. Raises WireError where it cannot be carried out."""
        self.state.seat.check(order)
        if any(each.num_padded > self.intake.max_rows for each in order.microbatches):
            raise WireError(f"a microbatch has more than {self.intake.max_rows} tokens, padded")
        if order.num_rows > self.intake.max_order_rows:
            raise WireError(f"an order has more than {self.intake.max_order_rows} tokens")
        self.state.give(order)
        self._given_s[order.number] = time.perf_counter()
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
        traffic = self._received[side][frame.header.codec]
        traffic.count(len(frame.payload))
        need = self.intake.takes(frame.header, side)
        if need is None:
            self.figures.dropped_frames += 1
            link.consumed()
            return
        self.state.arrive(frame.header.step, need)
        self._inbox.hold((frame.header.step, need), frame, link, traffic)
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
        assert self._across is not None
        unique = np.unique(np.concatenate(tokens)).astype(np.int64)
        self._across.want(order.number, torch.from_numpy(unique))

    # ------------------------------------------------------------------------- what is computed

    def _advance(self) -> None:
        """Send what is ready, and begin the next piece of work if the thread is free."""
        for box in self._outboxes():
            box.drain()
        for work in self.state.peek(DECODED_AHEAD):
            for need in work.needs:
                self._inbox.decode((work.order.number, need))
        if self._computing or self._stopped or self._is_ahead():
            return
        work_or_none = self.state.next()
        if work_or_none is not None:
            self._computing = True
            self._start(work_or_none)

    def _outboxes(self) -> list[Outbox]:
        across = None if self._across is None else self._across.outbox
        return [box for box in (self._down, self._up, across) if box is not None]

    def _is_ahead(self) -> bool:
        upcoming = self.state.peek(1)
        return (
            self._down is not None
            and bool(upcoming)
            and not upcoming[0].order.has_backwards
            and self._down.num_waiting >= EVALUATED_AHEAD
        )

    def _start(self, work: Work) -> None:
        self.duty.step = work.order.step
        compute, done = self._plan(work)

        def timed() -> tuple[Any, float]:
            begin = time.perf_counter()
            result = compute()
            stretch(begin, self.slowdown)
            return result, time.perf_counter() - begin

        def finished(outcome: tuple[Any, float]) -> None:
            result, seconds = outcome
            self._computing = False
            self._tally.took(work, seconds)
            self.figures.took(work, seconds)
            done(result)
            self.state.finish(work)
            self._ended(work)
            self._advance()

        self.compute.submit(timed, finished, self._fail)

    def _ended(self, work: Work) -> None:
        """Time an order whose last piece of work is done, from when it could have begun."""
        number = work.order.number
        if self.state.order(number) is not None:
            return
        begun_s = max(self._given_s.pop(number), self._ended_s)
        self._ended_s = time.perf_counter()
        if work.order.is_decided:
            self.figures.step_s.observe(self._ended_s - begun_s)
            _log.debug("step done", step=work.order.step, seconds=self._ended_s - begun_s)

    def _plan(self, work: Work) -> Plan:
        """What to compute, on the compute thread, and what to do with the result."""
        rows = {
            need.kind: self._inbox.take((work.order.number, need))
            for need in work.needs
            if need.kind not in NOT_FRAMES
        }
        match work.task:
            case Task.ACT if work.action is not None and work.action.kind is Kind.FORWARD:
                ids = self._ids.pop((work.order.number, work.action.microbatch), Ids())
                return self._passes.forward(work, rows.get(Input.ACTIVATIONS), ids, self._tally)
            case Task.ACT:
                return self._passes.backward(work, rows.get(Input.GRADIENT), self._tally)
            case Task.SETTLE:
                return partial(self._settle, work.order), partial(self._ready, work.order)
            case Task.CONCLUDE:
                return self._conclude(self._decisions.pop(work.order.number))
            case _:
                assert self._across is not None
                return self._across.plan(work, rows)

    def _settle(self, order: Order) -> tuple[float, float]:
        """The sum of squared gradients, and their product with those of a rehearsal before."""
        if not order.has_backwards:
            return 0.0, 0.0
        total = self.engine.gradients().sum_of_squares
        return total, 0.0 if order.is_decided else self.engine.rehearse()

    def _ready(self, order: Order, gradients: tuple[float, float]) -> None:
        tally, self._tally = self._tally, Tally()
        report = tally.ready(
            order.number,
            *gradients,
            sent_bytes=_taken(self._down),
            returned_bytes=_taken(self._up),
            inflight=self.state.most_inflight,
        )
        self.emit(report)

    def _conclude(self, decision: Decision) -> Plan:
        update = decision.update

        def compute() -> int:
            if update is None:
                self.engine.discard()
            else:
                self.engine.apply(update)
            return peak_resident_bytes()

        def done(peak_bytes: int) -> None:
            self.figures.applied_steps += update is not None
            self.figures.skipped_steps += update is None
            if decision.export:
                self.keep()
            self.emit(StageApplied(order=decision.order, peak_bytes=peak_bytes))

        return compute, done

    def _fail(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)


def _taken(box: Outbox | None) -> int:
    """The bytes of an outbox, which begins to count anew."""
    if box is None:
        return 0
    sent, box.sent_bytes = box.sent_bytes, 0
    return sent
