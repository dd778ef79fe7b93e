"""The step commit: ready from all, one decision, applied by all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.commit import Commit, clip_scale
from edgepipe.core.learning_rate import Decay, LearningRate
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.step_decision import Applied, Decided, Done, Ready, Verdict
from edgepipe.core.training import Broken, StageApplied, StageReady, Update
from edgepipe.errors import WireError

RATE = LearningRate(peak=1e-3, num_steps=100, decay=Decay.CONSTANT)
SUMS = st.floats(0, 1e12)
NAN = float("nan")


def commit(
    num_stages: int = 2, *, clip_norm: float = 1.0, loss_scale: LossScale | None = None
) -> Commit:
    stages = [f"node{stage} (cpu)" for stage in range(num_stages)]
    return Commit(stages=stages, clip_norm=clip_norm, learning_rate=RATE, loss_scale=loss_scale)


def ready(
    stage: int, sum_of_squares: float = 1.0, broken: Broken | None = None, *, order: int = 1
) -> Ready:
    return Ready(
        stage=stage,
        report=StageReady(
            order=order,
            sum_of_squares=sum_of_squares,
            loss_sums=(),
            broken=broken,
            busy_s=0.0,
            forward_s=0.0,
            backward_s=0.0,
            sent_bytes=0,
            returned_bytes=0,
            inflight=1,
        ),
    )


def applied(stage: int, *, order: int = 1) -> Applied:
    return Applied(stage=stage, report=StageApplied(order=order, peak_bytes=0))


def activations(microbatch: int) -> Broken:
    return Broken(microbatch=microbatch, what="activations")


def gradients(microbatch: int) -> Broken:
    return Broken(microbatch=microbatch, what="gradients")


def loss(microbatch: int) -> Broken:
    return Broken(microbatch=microbatch, what="loss")


def decide(deciding: Commit, reports: Sequence[Ready], *, step: int = 1) -> Decided:
    deciding.begin(order=1, step=step)
    for report in reports[:-1]:
        assert deciding.handle(report) is None
    decided = deciding.handle(reports[-1])
    assert isinstance(decided, Decided)
    return decided


def finish(deciding: Commit, *, order: int = 1) -> Done:
    said = [deciding.handle(applied(stage, order=order)) for stage in range(len(deciding.stages))]
    assert said[:-1] == [None] * (len(said) - 1)
    assert isinstance(said[-1], Done)
    return said[-1]


# ----------------------------------------------------------------------------------- applying


def test_a_step_is_decided_once_all_are_ready_and_done_once_all_have_applied() -> None:
    deciding = commit(2)
    decided = decide(deciding, [ready(1, 9.0), ready(0, 16.0)], step=7)
    assert decided == Decided(
        order=1,
        step=7,
        verdict=Verdict.APPLY,
        learning_rate=1e-3,
        scale=1 / (5 + 1e-6),
        loss_scale=1.0,
        grad_norm=5.0,
    )
    assert decided.update == Update(learning_rate=1e-3, scale=decided.scale)
    assert finish(deciding) == Done(step=7)


def test_gradients_below_the_clip_norm_stay_as_they_are() -> None:
    assert decide(commit(1, clip_norm=3.0), [ready(0, 4.0)]).scale == 1.0


def test_a_clip_norm_of_zero_is_no_clipping() -> None:
    assert decide(commit(1, clip_norm=0.0), [ready(0, 1e6)]).scale == 1.0


def test_the_loss_scale_is_undone_before_clipping() -> None:
    deciding = commit(1, clip_norm=1.0, loss_scale=LossScale(scale=8.0))
    assert deciding.scale == 8.0
    decided = decide(deciding, [ready(0, (8.0 * 2.0) ** 2)])
    assert decided.grad_norm == 2.0
    assert decided.scale == pytest.approx(1 / (2 + 1e-6) / 8.0)
    assert decided.loss_scale == 8.0


@settings(deadline=None)  # torch's first call
@given(
    gradients=st.lists(
        st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4), min_size=1, max_size=5
    ),
    clip_norm=st.floats(0.01, 50),
)
def test_it_clips_as_torch_does(gradients: list[list[float]], clip_norm: float) -> None:
    weights = [torch.nn.Parameter(torch.zeros(len(each))) for each in gradients]
    for weight, values in zip(weights, gradients, strict=True):
        weight.grad = torch.tensor(values)
    sums = [sum(value**2 for value in values) for values in gradients]
    reports = [ready(stage, each) for stage, each in enumerate(sums)]
    decided = decide(commit(len(gradients), clip_norm=clip_norm), reports)
    norm = torch.nn.utils.clip_grad_norm_(weights, clip_norm)
    assert decided.grad_norm == pytest.approx(norm.item(), rel=1e-5)
    for weight, values in zip(weights, gradients, strict=True):
        assert weight.grad is not None
        ours = [value * decided.scale for value in values]
        assert weight.grad.tolist() == pytest.approx(ours, rel=1e-4, abs=1e-12)


@given(sums=st.lists(SUMS, min_size=1, max_size=6), data=st.data())
def test_the_order_of_reports_changes_no_bit(sums: list[float], data: st.DataObject) -> None:
    reports = [ready(stage, each) for stage, each in enumerate(sums)]
    shuffled = data.draw(st.permutations(reports))
    assert decide(commit(len(sums)), shuffled) == decide(commit(len(sums)), reports)


@given(norm=st.floats(0, 1e30), clip_norm=st.floats(1e-3, 1e6))
def test_clipping_never_enlarges_and_never_leaves_more_than_the_norm(
    norm: float, clip_norm: float
) -> None:
    scale = clip_scale(norm, clip_norm)
    assert 0 <= scale <= 1
    assert norm * scale <= clip_norm * (1 + 1e-9)


# ------------------------------------------------------------------------- what is not finite


@pytest.mark.parametrize("broken", [activations(3), loss(3), gradients(3), None])
def test_without_a_loss_scale_it_stops_the_step_before_it_is_applied(broken: Broken | None) -> None:
    deciding = commit(2)
    decided = decide(deciding, [ready(0), ready(1, NAN, broken)])
    assert decided.verdict is Verdict.STOP
    assert decided.update is None
    with pytest.raises(WireError, match="which is given up"):
        deciding.handle(applied(0))
    with pytest.raises(AssertionError):
        deciding.begin(order=2, step=2)


def test_a_broken_value_stops_it_though_all_gradients_are_finite() -> None:
    assert decide(commit(1), [ready(0, 1.0, loss(0))]).verdict is Verdict.STOP


@pytest.mark.parametrize(
    ("reports", "what"),
    [
        (
            [ready(0, NAN, gradients(2)), ready(1, NAN, activations(2)), ready(2, NAN, loss(2))],
            "activations of microbatch 2 are not finite on node1 (cpu)",
        ),
        (
            [ready(0, NAN, gradients(0)), ready(1, NAN, gradients(0)), ready(2, NAN, loss(0))],
            "loss of microbatch 0 is not finite on node2 (cpu)",
        ),
        (
            [ready(0, NAN, gradients(5)), ready(1, NAN, gradients(4)), ready(2)],
            "gradients of microbatch 4 are not finite on node1 (cpu)",
        ),
        (
            [ready(0, NAN, gradients(5)), ready(1, math.inf), ready(2)],
            "gradients are not finite on node1 (cpu)",
        ),
        ([ready(0, 1e308), ready(1, 1e308), ready(2)], "the norm of all gradients is not finite"),
    ],
)
def test_the_sentence_names_where_it_began(reports: list[Ready], what: str) -> None:
    reason = decide(commit(3), reports, step=12).reason
    assert reason.startswith(f"step 12 was not applied: {what}: ")
    assert "\n" not in reason


@given(num_stages=st.integers(1, 6), data=st.data(), in_forward=st.booleans())
def test_it_is_where_the_pipeline_broke(
    num_stages: int, data: st.DataObject, in_forward: bool
) -> None:
    """What is not finite goes down with the activations, and from the last stage up again."""
    origin = data.draw(st.integers(0, num_stages - 1))
    last = num_stages - 1
    broken: list[Broken | None] = []
    for stage in range(num_stages):
        if in_forward and stage >= origin:
            broken.append(loss(stage) if stage == last else activations(stage))
        else:
            broken.append(gradients(stage) if stage <= origin else None)
    reports = [ready(stage, NAN if each else 1.0, each) for stage, each in enumerate(broken)]
    reason = decide(commit(num_stages), data.draw(st.permutations(reports))).reason
    assert f"of microbatch {origin} " in reason
    assert f"not finite on node{origin} (cpu)" in reason


def test_in_float16_the_step_is_skipped_and_the_loss_scale_halves() -> None:
    deciding = commit(2, loss_scale=LossScale())
    decided = decide(deciding, [ready(0), ready(1, math.inf)])
    assert (decided.verdict, decided.update) == (Verdict.SKIP, None)
    assert (decided.loss_scale, deciding.scale) == (2.0**16, 2.0**15)
    assert finish(deciding) == Done(step=1)


def test_a_skipped_step_is_a_step() -> None:
    deciding = commit(1, loss_scale=LossScale())
    decide(deciding, [ready(0, math.inf)])
    finish(deciding)
    deciding.begin(order=2, step=2)
    decided = deciding.handle(ready(0, order=2))
    assert isinstance(decided, Decided)
    assert (decided.step, decided.verdict) == (2, Verdict.APPLY)


def test_once_the_loss_scale_cannot_fall_it_stops() -> None:
    deciding = commit(1, loss_scale=LossScale())
    verdicts = []
    for step in range(1, 18):
        deciding.begin(order=step, step=step)
        decided = deciding.handle(ready(0, NAN, activations(0), order=step))
        assert isinstance(decided, Decided)
        verdicts.append(decided.verdict)
        if decided.verdict is not Verdict.STOP:
            finish(deciding, order=step)
    assert verdicts == [Verdict.SKIP] * 16 + [Verdict.STOP]


# --------------------------------------------------------------------------- what may not come


def test_a_stage_is_ready_once() -> None:
    deciding = commit(2)
    deciding.begin(order=1, step=1)
    deciding.handle(ready(0))
    with pytest.raises(WireError, match=r"node0 \(cpu\) is ready twice"):
        deciding.handle(ready(0))


def test_a_stage_is_done_once() -> None:
    deciding = commit(2)
    decide(deciding, [ready(0), ready(1)])
    deciding.handle(applied(1))
    with pytest.raises(WireError, match=r"node1 \(cpu\) is done twice"):
        deciding.handle(applied(1))


def test_nothing_is_applied_before_it_is_decided() -> None:
    deciding = commit(2)
    deciding.begin(order=1, step=1)
    deciding.handle(ready(0))
    with pytest.raises(WireError, match="done with order 1, which is not decided"):
        deciding.handle(applied(0))


def test_a_report_of_another_order_is_refused() -> None:
    deciding = commit(2)
    deciding.begin(order=1, step=1)
    with pytest.raises(WireError, match="ready with order 2, not 1"):
        deciding.handle(ready(0, order=2))


def test_a_report_after_the_step_is_refused() -> None:
    deciding = commit(1)
    decide(deciding, [ready(0)])
    finish(deciding)
    for report in (ready(0), applied(0)):
        with pytest.raises(WireError, match="order 1, which is over"):
            deciding.handle(report)


@pytest.mark.parametrize(
    "report", [ready(0, -1.0), ready(0, 1.0, Broken(microbatch=0, what="heart"))]
)
def test_a_report_that_cannot_be_is_refused(report: Ready) -> None:
    deciding = commit(2)
    deciding.begin(order=1, step=1)
    with pytest.raises(WireError, match="run one version"):
        deciding.handle(report)


def test_a_step_ends_before_the_next_begins() -> None:
    deciding = commit(1)
    deciding.begin(order=1, step=1)
    with pytest.raises(AssertionError):
        deciding.begin(order=2, step=2)


def test_steps_rise() -> None:
    deciding = commit(1)
    decide(deciding, [ready(0)], step=5)
    finish(deciding)
    with pytest.raises(AssertionError):
        deciding.begin(order=2, step=5)


REPORTS = st.one_of(
    st.builds(
        ready,
        stage=st.integers(0, 2),
        sum_of_squares=st.floats(0),
        broken=st.none() | st.builds(Broken, microbatch=st.integers(0, 3), what=st.just("loss")),
        order=st.integers(1, 2),
    ),
    st.builds(applied, stage=st.integers(0, 2), order=st.integers(1, 2)),
)


@given(reports=st.lists(REPORTS, max_size=40))
def test_whatever_comes_a_step_is_decided_once_and_done_after_it(
    reports: list[Ready | Applied],
) -> None:
    """Stages that report at random are refused, or bring the steps on, in order."""
    deciding = commit(3, loss_scale=LossScale())
    said: list[Decided | Done] = []
    step = 1
    deciding.begin(order=step, step=step)
    for report in reports:
        try:
            instruction = deciding.handle(report)
        except WireError:
            continue
        if instruction is not None:
            said.append(instruction)
        if isinstance(instruction, Done):
            step += 1
            deciding.begin(order=step, step=step)
    kinds = [(type(each), each.step) for each in said]
    expected = [(kind, at) for at in range(1, step + 1) for kind in (Decided, Done)]
    assert kinds == expected[: len(kinds)]
    assert all(
        each.update is None or math.isfinite(each.update.scale)
        for each in said
        if isinstance(each, Decided)
    )
