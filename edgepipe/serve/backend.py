"""The pipeline as the HTTP layer sees it: sequences wanted in, news of them out.

Pipelines come and go, see edgepipe.coordinator.standing. Who waits for a slot waits on while there
is none; who had one is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from edgepipe.coordinator.generation import Asked, ask, generate
from edgepipe.coordinator.launch import Running
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.admission import FrontDesk, Refused
from edgepipe.core.frame import SequenceId
from edgepipe.core.standing import Why
from edgepipe.errors import EdgepipeError, first_of
from edgepipe.serve.asking import Served, Wanted
from edgepipe.serve.errors import LIMIT, Refusal, refusal_of, unavailable
from edgepipe.serve.metrics import Metrics
from edgepipe.serve.pieces import Broken, Ended, News, PieceMaker

_SMOOTHING = 0.2
"""How much the newest answer counts in how long a slot is held."""

RETRY_AFTER_S = 2
"""When to ask again after a pipeline broke: planning anew takes seconds."""
LOOK_S = 1.0

Inbox = asyncio.Queue[News]
"""A request's news. It holds as much as the request may generate: a slow reader holds up nobody."""


@dataclass(slots=True, kw_only=True)
class Backend:
    """Admits sequences to the pipeline that stands. Once `ended`, it refuses all.

    `reason` says why there is no pipeline, "" while there is one.
    """

    tokenizer: Tokenizer
    served: Served
    desk: FrontDesk
    metrics: Metrics
    tokenizing: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: Refusal | None = None
    running: Running | None = None
    reason: str = "there was none yet"
    _ids: count[int] = field(default_factory=lambda: count(1))
    _turns: dict[SequenceId, asyncio.Event] = field(default_factory=dict)
    _inboxes: dict[SequenceId, Inbox] = field(default_factory=dict)
    _loaded: Callable[[int], None] = lambda _num_running: None
    _slot_s: float = 1.0

    def end(self, refusal: Refusal) -> None:
        """Refuse what comes, and tell everybody who waits for an answer."""
        self.ended = refusal
        self._break(self._inboxes, refusal)

    def _break(self, sequences: Iterable[SequenceId], refusal: Refusal) -> None:
        """Tell the requests that want these sequences, each once."""
        for inbox in {self._inboxes[id_] for id_ in sequences}:
            inbox.put_nowait(Broken(refusal=refusal))

    # ------------------------------------------------------------- the pipeline comes and goes

    def reports_to(self, loaded: Callable[[int], None]) -> None:
        """See Tenant."""
        self._loaded = loaded

    def opened(self, running: Running, why: Why) -> None:
        """See Tenant."""
        self.running, self.reason = running, ""
        self.metrics.stages.set(len(running.plan.stages))
        if why is not Why.STARTED:
            self.metrics.replans.labels(why).inc()

    def admit(self) -> None:
        """See Tenant."""
        assert self.running is not None, "sequences are admitted to a pipeline"
        self._call(self.desk.open(self.running.pipeline.deployment.num_slots))

    def hold(self) -> None:
        """See Tenant."""
        self.desk.hold()

    def missing(self, reason: str) -> None:
        """See Tenant."""
        had_one, self.running, self.reason = self.running is not None, None, reason
        self.desk.close(_now())
        self.metrics.stages.set(0)
        if had_one and self.ended is None:
            self.metrics.broken.inc(self.desk.num_running)
            broke = "The pipeline broke, and the server plans anew: ask again."
            self._break(self.desk.running, unavailable(broke, retry_after_s=RETRY_AFTER_S))

    async def keep_patience(self) -> None:
        """Tell those who have waited too long for a pipeline, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            overdue = self.desk.overdue(_now())
            if overdue:
                looking = f"The server is looking for machines: {self.reason}"
                self._break(overdue, unavailable(looking, retry_after_s=RETRY_AFTER_S))

    # ---------------------------------------------------------------------------------- answers

    @asynccontextmanager
    async def answering(
        self, wanted: Sequence[Wanted], *, tells_tokens: bool
    ) -> AsyncIterator[Inbox]:
        """News of the sequences of one request; what runs on leaving is cancelled in every stage.

        Raises Refusal where there is no room.
        """
        inbox: Inbox = asyncio.Queue()
        ids = self._arrive(len(wanted), inbox)
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
            for id_ in ids:
                self._leave(id_)
                del self._inboxes[id_]

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

    def _arrive(self, num: int, inbox: Inbox) -> list[SequenceId]:
        if self.ended is not None:
            raise self.ended
        self.check_count(num)
        ids = [SequenceId(next(self._ids)) for _ in range(num)]
        started = self.desk.arrive(ids, slot_s=self._slot_s, now_s=_now())
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
        self._inboxes |= dict.fromkeys(ids, inbox)
        self._call(started)
        return ids

    def _leave(self, id_: SequenceId) -> None:
        self._turns.pop(id_, None)
        self._call(self.desk.leave(id_))

    def _call(self, started: Sequence[SequenceId]) -> None:
        for id_ in started:
            self._turns[id_].set()
        self._loaded(self.desk.num_running)

    async def _answer(
        self, choice: int, id_: SequenceId, wanted: Wanted, inbox: Inbox, *, tells: bool
    ) -> None:
        """Generate one choice once it is its turn."""
        asked_s = time.perf_counter()
        await self._turns[id_].wait()
        if self.running is None:
            return  # it broke in this very moment, and the request is told
        pipeline = self.running.pipeline
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
        last_s = began_s
        try:
            async with aclosing(generate(pipeline, answer)) as texts:
                async for text in texts:
                    self.metrics.generated_tokens.inc()
                    now_s = time.perf_counter()
                    if answer.num_sampled == 1:
                        self.metrics.ttft_s.observe(now_s - asked_s)
                    else:
                        self.metrics.token_s.observe(now_s - last_s)
                    last_s = now_s
                    if text:
                        inbox.put_nowait(maker.piece(text))
        except EdgepipeError as error:
            self.metrics.broken.inc()
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


def _now() -> float:
    return asyncio.get_running_loop().time()
