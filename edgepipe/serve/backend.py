"""A running pipeline as the HTTP layer sees it: sequences wanted in, news of them out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from edgepipe.coordinator.generation import Asked, ask, generate
from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.admission import FrontDesk, Refused
from edgepipe.core.frame import SequenceId
from edgepipe.errors import EdgepipeError, first_of
from edgepipe.serve.asking import Served, Wanted
from edgepipe.serve.errors import LIMIT, Refusal, refusal_of
from edgepipe.serve.metrics import Metrics
from edgepipe.serve.pieces import Broken, Ended, News, PieceMaker

_SMOOTHING = 0.2
"""How much the newest answer counts in how long a slot is held."""

Inbox = asyncio.Queue[News]
"""A request's news. It holds as much as the request may generate: a slow reader holds up nobody."""


@dataclass(slots=True, kw_only=True)
class Backend:
    """Admits sequences to a pipeline. Once `ended`, it refuses all, and is not healthy."""

    pipeline: Pipeline
    tokenizer: Tokenizer
    served: Served
    desk: FrontDesk
    metrics: Metrics
    tokenizing: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: Refusal | None = None
    _ids: count[int] = field(default_factory=lambda: count(1))
    _turns: dict[SequenceId, asyncio.Event] = field(default_factory=dict)
    _inboxes: set[Inbox] = field(default_factory=set)
    _slot_s: float = 1.0

    def end(self, refusal: Refusal) -> None:
        """Refuse what comes, and tell everybody who waits for an answer."""
        self.ended = refusal
        for inbox in self._inboxes:
            inbox.put_nowait(Broken(refusal=refusal))

    @asynccontextmanager
    async def answering(
        self, wanted: Sequence[Wanted], *, tells_tokens: bool
    ) -> AsyncIterator[Inbox]:
        """News of the sequences of one request; what runs on leaving is cancelled in every stage.

        Raises Refusal where there is no room.
        """
        inbox: Inbox = asyncio.Queue()
        ids = self._arrive(len(wanted))
        self._inboxes.add(inbox)
        try:
            async with asyncio.TaskGroup() as tasks:
                answers = [
                    tasks.create_task(self._answer(choice, id_, each, inbox, tells=tells_tokens))
                    for choice, (id_, each) in enumerate(zip(ids, wanted, strict=True))
                ]
                yield inbox
                for answer in answers:
                    answer.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from failures
        finally:
            self._inboxes.discard(inbox)
            for id_ in ids:
                self._leave(id_)

    def check_count(self, num: int) -> None:
        """Raises Refusal for more answers than can be here at once."""
        if num > self.desk.capacity:
            raise Refusal(
                400,
                f"The request wants {num} answers, and {self.desk.capacity} may run and wait here: "
                "ask for fewer.",
                param="n",
                code="invalid_value",
            )

    def _arrive(self, num: int) -> list[SequenceId]:
        if self.ended is not None:
            raise self.ended
        self.check_count(num)
        ids = [SequenceId(next(self._ids)) for _ in range(num)]
        started = self.desk.arrive(ids, slot_s=self._slot_s)
        if isinstance(started, Refused):
            raise Refusal(
                429,
                f"{self.desk.num_running} answers are being generated and "
                f"{self.desk.num_waiting} wait: come again in {started.retry_after_s} s.",
                kind=LIMIT,
                code="rate_limit_exceeded",
                retry_after_s=started.retry_after_s,
            )
        self._turns |= {id_: asyncio.Event() for id_ in ids}
        self._call(started)
        return ids

    def _leave(self, id_: SequenceId) -> None:
        self._turns.pop(id_, None)
        self._call(self.desk.leave(id_))

    def _call(self, started: Sequence[SequenceId]) -> None:
        for id_ in started:
            self._turns[id_].set()

    async def _answer(
        self, choice: int, id_: SequenceId, wanted: Wanted, inbox: Inbox, *, tells: bool
    ) -> None:
        """Generate one choice once it is its turn."""
        asked_s = time.perf_counter()
        await self._turns[id_].wait()
        began_s = time.perf_counter()
        self.metrics.waited_s.observe(began_s - asked_s)
        answer = ask(
            self.tokenizer,
            Asked(
                sequence=id_,
                prompt_ids=wanted.prompt_ids,
                sampling=wanted.sampling,
                max_tokens=wanted.max_tokens,
                eos_ids=self.served.eos_ids,
                stops=wanted.stops,
            ),
        )
        maker = PieceMaker(
            choice=choice, tokenizer=self.tokenizer, answer=answer, tells_tokens=tells
        )
        try:
            async with aclosing(generate(self.pipeline, answer)) as texts:
                async for text in texts:
                    self.metrics.generated_tokens.inc()
                    if answer.num_sampled == 1:
                        self.metrics.ttft_s.observe(time.perf_counter() - asked_s)
                    if text:
                        inbox.put_nowait(maker.piece(text))
        except EdgepipeError as error:
            inbox.put_nowait(Broken(refusal=refusal_of(error)))
            return
        finally:
            self._leave(id_)
            if answer.finish is None:
                self.metrics.cancelled.inc()
        assert answer.finish is not None
        ended_s = time.perf_counter()
        self._slot_s += _SMOOTHING * (ended_s - began_s - self._slot_s)
        self.metrics.answer_s.observe(ended_s - asked_s)
        inbox.put_nowait(
            Ended(choice=choice, finish=answer.finish, num_tokens=len(answer.token_ids))
        )
