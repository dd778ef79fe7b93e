"""The median step of a run beside its prediction."""

from __future__ import annotations

import pytest
from on_paper import llama, machine, surveyed

from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.train_loop import StepDone
from edgepipe.coordinator.train_watching import StepWatch
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.training import StageReady
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work

MICROBATCHES = 4


@pytest.fixture(scope="module")
def planned() -> Plan:
    """Two stages, and a step of four microbatches."""
    model = llama(num_layers=4)
    work = Work(
        objective=Objective.TRAIN,
        workload=Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=128, prefill_chunk=128),
        batch=Batch(
            mode=TrainMode.LORA, sequences=4, sequence_length=128, microbatches=MICROBATCHES
        ),
    )
    survey = surveyed(model, [machine("a"), machine("b")])
    return plan(Asked.of(model, survey, work, num_stages=2), strategy=Strategy.EQUAL)


def predicted_s(planned: Plan) -> float:
    assert planned.predicted is not None
    assert planned.predicted.step_s is not None
    return planned.predicted.step_s


def done(planned: Plan, *, slower: float = 1.0, tokens: float = 1.0) -> StepDone:
    """A step of so many times the planned tokens, whose second stage was so much slower."""
    busy = [tokens * MICROBATCHES * (each.forward_s + each.backward_s) for each in planned.stages]
    busy[1] *= slower
    whole_s = predicted_s(planned)
    reports = tuple(
        StageReady(
            order=1,
            sum_of_squares=0.0,
            loss_sums=(1.0,) * MICROBATCHES,
            broken=None,
            busy_s=seconds,
            forward_s=seconds / 3,
            backward_s=seconds * 2 / 3,
            sent_bytes=0,
            returned_bytes=0,
            inflight=1,
        )
        for seconds in busy
    )
    metrics = StepMetrics(
        step=1,
        loss=1.0,
        grad_norm=1.0,
        learning_rate=0.0,
        num_tokens=512,
        tokens_per_s=1.0,
        step_s=tokens * whole_s + busy[1] * (1 - 1 / slower),
        predicted_step_s=tokens * whole_s,
        bubble=0.0,
        bytes=0,
    )
    return StepDone(metrics=metrics, reports=reports, applied=())


def test_few_steps_say_nothing(planned: Plan) -> None:
    watch = StepWatch(plan=planned)
    for _ in range(3):
        watch.take(done(planned))
    assert watch.median is None, "the first of them warms up"


def test_what_was_predicted_is_no_miss_however_long_a_step_is(planned: Plan) -> None:
    watch = StepWatch(plan=planned)
    for tokens in (1.0, 0.5, 1.0, 2.0):
        watch.take(done(planned, tokens=tokens))
    assert watch.median is not None
    assert watch.median.error == pytest.approx(0)


def test_a_few_slow_steps_are_no_miss(planned: Plan) -> None:
    watch = StepWatch(plan=planned)
    for slower in (3.0, 1.0, 1.0, 1.0, 2.0, 2.0):
        watch.take(done(planned, slower=slower))
    assert watch.median is not None
    assert not watch.median.missed


def test_half_of_the_steps_are_no_median(planned: Plan) -> None:
    watch = StepWatch(plan=planned)
    for slower in (1.0, 1.0, 1.0, 2.0, 2.0):
        watch.take(done(planned, slower=slower))
    assert watch.median is not None
    assert watch.median.error == pytest.approx(0)


def test_a_stage_that_is_mostly_slower_is_to_blame(planned: Plan) -> None:
    watch = StepWatch(plan=planned)
    for slower in (1.0, 1.5, 1.5, 1.5, 1.0):
        watch.take(done(planned, slower=slower))
    assert watch.median is not None
    assert watch.median.missed
    assert watch.median.wrong.stage == 1
