"""A training run, step after step: each is decided once every stage is ready (DESIGN §5).

give step s+1 ahead │ ready(s) of every stage ─▶ decide ─▶ journal ─▶ apply ─▶ applied(s)
                    └ not before an evaluation, and not where the loss scale may change
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgepipe.coordinator.background import whole
from edgepipe.coordinator.manifest import Manifest
from edgepipe.coordinator.orders import BoundaryCodecs, Orders
from edgepipe.coordinator.run_folder import RunFolder
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.train_batches import Batches, StepBatch
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_saving import Saver
from edgepipe.core.cadence import Cadence
from edgepipe.core.codec_guard import Guard, cosine, has_room_for_gradients
from edgepipe.core.commit import Commit
from edgepipe.core.dataset import Example
from edgepipe.core.frame import Codec
from edgepipe.core.pipeline import Plan
from edgepipe.core.shuffle import Cursor
from edgepipe.core.step_decision import Applied, Decided, Ready, Verdict
from edgepipe.core.training import Decision, StageApplied, StageReady
from edgepipe.core.work import TrainMode
from edgepipe.errors import StageError

EVALUATIONS_AHEAD = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDone:
    """A step that every stage has applied, or skipped."""

    metrics: StepMetrics
    reports: tuple[StageReady, ...]
    applied: tuple[StageApplied, ...]


class Shown(Protocol):
    """What a person is shown of a run."""

    def stepped(self, done: StepDone) -> None:
        """A step is over."""
        ...

    def noted(self, text: str) -> None:
        """Something worth a sentence happened."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """An order that trains, on its way."""

    number: int
    step: int
    batch: StepBatch


@dataclass(slots=True, kw_only=True)
class TrainLoop:
    """The state of a run between its steps. `step` is the last that is done.

    `facts` are what a checkpoint says of the run, whatever its step.
    """

    config: TrainConfig
    plan: Plan
    orders: Orders
    batches: Batches
    held_out: Sequence[Example]
    folder: RunFolder
    saver: Saver
    commit: Commit
    guard: Guard
    cadence: Cadence
    facts: Manifest
    shown: Shown
    codecs: BoundaryCodecs
    step: int = 0
    cursor: Cursor = field(default_factory=Cursor)
    codec_steps: int = 0
    _ended_s: float = field(default_factory=time.perf_counter)

    async def run(self) -> StepMetrics | None:
        """Train to the last step; what it came to, None where there was nothing left to do."""
        metrics = None
        if self.step == 0 and self.config.mode is TrainMode.LORA:
            await self.saver.save(self._facts(), 0)
            await self.saver.finish()
        first_eval = await self._evaluated() if self.step == 0 else None
        given = self._give(self.step + 1) if self.step < self.config.steps else None
        while given is not None:
            following = self._give(given.step + 1) if self._looks_ahead(given.step) else None
            metrics = await self._carry_out(given, first_eval)
            first_eval = None
            if following is None and given.step < self.config.steps:
                following = self._give(given.step + 1)
            given = following
        await self.saver.finish()
        return metrics

    def go_on(self, manifest: Manifest) -> None:
        """From a checkpoint that the stages have taken."""
        self.step, self.cursor = manifest.step, manifest.cursor
        for _ in range(manifest.codec_steps):
            self._step_up()
        if self.commit.loss_scale is not None:
            self.commit.loss_scale = manifest.loss_scale or self.commit.loss_scale

    def _looks_ahead(self, step: int) -> bool:
        """Whether the next step's tokens may go out before this step is decided."""
        pauses = self.cadence.evaluates(step) or self._guards(step)
        return step < self.config.steps and not pauses and self.commit.loss_scale is None

    def _give(self, step: int) -> _Given:
        batch = self.batches.step(step, self.cursor, scale=self.commit.scale, codecs=self.codecs)
        self.cursor = batch.cursor
        return _Given(number=self.orders.give(batch.batch), step=step, batch=batch)

    # -------------------------------------------------------------------------------- one step

    async def _carry_out(self, given: _Given, first_eval: float | None) -> StepMetrics:
        self.commit.begin(order=given.number, step=given.step)
        reports = await self.orders.ready(given.number)
        decided = await self._decide(given, reports)
        applied = await self._applied(given)
        ended_s = time.perf_counter()
        step_s = ended_s - max(self._ended_s, self.orders.given_s[given.number])
        self.step = given.step
        eval_loss = None
        if self.cadence.evaluates(given.step):
            eval_loss = await self._evaluated()
        more = await self._guarded(given)
        metrics = self._metrics(given, reports, decided, step_s)
        extra = {} if first_eval is None else {"eval_loss_before": first_eval}
        metrics = replace(metrics, eval_loss=eval_loss, more={**metrics.more, **extra, **more})
        await whole(self._count(StepDone(metrics=metrics, reports=reports, applied=applied)))
        if self.cadence.saves(given.step):  # after the line: a run goes on with the next step's
            await self.saver.save(self._facts(given.batch.cursor), given.number)
        self._ended_s = time.perf_counter() if eval_loss is not None or more else ended_s
        return metrics

    async def _count(self, done: StepDone) -> None:
        """Write a step down and show it."""
        await asyncio.to_thread(self.folder.add_metrics, done.metrics)
        self.shown.stepped(done)

    async def _decide(self, given: _Given, reports: tuple[StageReady, ...]) -> Decided:
        """Journal the decision, then tell it. Raises StageError where the run must stop."""
        decided = None
        for stage, report in enumerate(reports):
            decided = self.commit.handle(Ready(stage=stage, report=report))
        assert isinstance(decided, Decided)
        await asyncio.to_thread(self.folder.add_decision, decided)
        if decided.verdict is Verdict.STOP:
            await self.saver.finish()
            raise StageError(decided.reason)
        if decided.verdict is Verdict.SKIP:
            self.shown.noted(f"step {given.step} was skipped: {decided.reason}")
        export = self.cadence.saves(given.step)
        self.orders.decide(Decision(order=given.number, update=decided.update, export=export))
        return decided

    async def _applied(self, given: _Given) -> tuple[StageApplied, ...]:
        applied = await self.orders.applied(given.number)
        for stage, report in enumerate(applied):
            self.commit.handle(Applied(stage=stage, report=report))
        return applied

    def _metrics(
        self, given: _Given, reports: tuple[StageReady, ...], decided: Decided, step_s: float
    ) -> StepMetrics:
        busy_s = sum(report.busy_s for report in reports)
        batch = given.batch
        return StepMetrics(
            step=given.step,
            loss=sum(reports[-1].loss_sums) / batch.num_targets,
            grad_norm=decided.grad_norm,
            learning_rate=decided.learning_rate,
            num_tokens=batch.num_tokens,
            tokens_per_s=batch.num_tokens / step_s,
            step_s=step_s,
            predicted_step_s=self._predicted_s(batch),
            bubble=max(0.0, 1 - busy_s / (step_s * len(reports))),
            bytes=sum(report.sent_bytes + report.returned_bytes for report in reports),
            more={"inflight": [report.inflight for report in reports]},
        )

    def _predicted_s(self, batch: StepBatch) -> float:
        """The plan's figure, for as many tokens as the step computes, padding included."""
        predicted, planned = self.plan.predicted, self.plan.inputs.batch
        if predicted is None or predicted.step_s is None or planned is None:
            return 0.0
        return predicted.step_s * batch.padded_tokens / planned.num_tokens

    # -------------------------------------------------------------------- every so many steps

    def _facts(self, cursor: Cursor | None = None) -> Manifest:
        return replace(
            self.facts,
            step=self.step,
            cursor=cursor or self.cursor,
            loss_scale=self.commit.loss_scale,
            codec_steps=self.codec_steps,
        )

    async def _evaluated(self) -> float | None:
        """The held-out loss now, whatever the codecs do to it; None where nothing is held out."""
        if not self.held_out:
            return None
        return await self.evaluate(self.held_out, self.codecs.uncompressed())

    async def evaluate(self, examples: Sequence[Example], codecs: BoundaryCodecs) -> float:
        """The loss of examples, per target, in nats."""
        numbers: list[int] = []
        total = 0.0
        for batch in self.batches.evaluations(examples, self.step, codecs):
            numbers.append(self.orders.give(batch))
            if len(numbers) == EVALUATIONS_AHEAD:
                total += await self._loss_sum(numbers.pop(0))
        for number in numbers:
            total += await self._loss_sum(number)
        return total / sum(example.num_targets for example in examples)

    async def _loss_sum(self, number: int) -> float:
        return sum((await self.orders.ready(number))[-1].loss_sums)

    def _guards(self, step: int) -> bool:
        lossy = {*self.codecs.forward, *self.codecs.backward} - {Codec.NONE}
        return bool(lossy) and self.guard.is_due(step)

    async def _guarded(self, given: _Given) -> dict[str, float]:
        """What the codecs do to one microbatch; over the threshold they step up."""
        if not self._guards(given.step):
            return {}
        examples = given.batch.batch.microbatches[0]
        found = await self._compared(examples)
        if self.guard.is_over(found["codec_loss_error"]):
            self._step_up()
            self.shown.noted(
                f"the codecs changed the loss by {found['codec_loss_error']:.1%}: from now on "
                f"{', '.join(self.codecs.forward)} down and {', '.join(self.codecs.backward)} up"
            )
        return found

    def _step_up(self) -> None:
        self.codecs = self.codecs.stepped_up()
        self.codec_steps += 1

    async def _compared(self, examples: Sequence[Example]) -> dict[str, float]:
        """The loss with codecs against that without; the gradients too, where they fit twice."""
        if not has_room_for_gradients(self.plan, self.config.mode):
            coded = await self.evaluate(examples, self.codecs)
            plain = await self.evaluate(examples, self.codecs.uncompressed())
            return {"codec_loss_error": self.guard.error(coded, plain)}
        one, two = [
            await self._rehearsed(examples, codecs)
            for codecs in (self.codecs, self.codecs.uncompressed())
        ]
        losses = [sum(reports[-1].loss_sums) for reports in (one, two)]
        squares = [sum(report.sum_of_squares for report in reports) for reports in (one, two)]
        dot = sum(report.dot for report in two)
        return {
            "codec_loss_error": self.guard.error(*losses),
            "codec_gradient_cosine": cosine(dot, *squares),
        }

    async def _rehearsed(
        self, examples: Sequence[Example], codecs: BoundaryCodecs
    ) -> tuple[StageReady, ...]:
        batch = self.batches.rehearsal(examples, self.step, scale=self.commit.scale, codecs=codecs)
        return await self.orders.ready(self.orders.give(batch))
