"""The exact plan: never behind a rival, infeasible only where nothing fits, and a document."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
from drawn_surveys import drawn
from on_paper import GIB, llama, machine, surveyed

from edgepipe.core.choosing import cases_of
from edgepipe.core.costs import cost
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.prediction import figure_s
from edgepipe.core.problem import Placement, Stage
from edgepipe.core.search import search
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work
from edgepipe.errors import PlanError

SEEDS = range(6)
SMOL = llama()


def planned(seed: int, objective: Objective, *, tight: bool | None = None) -> tuple[Asked, Plan]:
    """The exact plan of a random cluster, often with a user's split as one of its rivals."""
    asked, rng = drawn(seed, objective, tight=tight), Random(seed)
    count = asked.num_stages or len(asked.survey.devices)
    if not asked.in_order and asked.num_stages is None:
        count = rng.randint(1, count)
    num = asked.model.num_layers
    split = sorted(rng.sample(range(1, num), count - 1)) if count <= num else None
    return asked, plan(asked, strategy=Strategy.EXACT, split=split)


def placement_of(asked: Asked, made: Plan) -> Placement:
    at = {(each.node, each.device.id): i for i, each in enumerate(asked.survey.devices)}
    return tuple(
        Stage(device=at[stage.node, stage.device], first=stage.first, end=stage.end)
        for stage in made.stages
    )


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_rival_is_ahead(seed: int, objective: Objective) -> None:
    try:
        _, made = planned(seed, objective)
    except PlanError:
        return
    assert {rival.strategy for rival in made.rivals} >= {Strategy.EQUAL, Strategy.PROPORTIONAL}
    for rival in made.rivals:
        assert rival.feasible == (rival.predicted is not None)
        assert (rival.short_by_bytes == 0) == rival.feasible
        if rival.predicted is not None:
            assert made.predicted is not None
            mine, other = (figure_s(objective, each.predicted) for each in (made, rival))
            assert mine <= other * (1 + 1e-12)


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_it_fits_exactly_where_any_setting_does(seed: int, objective: Objective) -> None:
    try:
        asked, made = planned(seed, objective, tight=True)
    except PlanError:
        return
    cases = cases_of(asked)
    assert made.feasible == any(search(case.problem, num_best=1).found for case in cases)
    assert made.feasible == (made.short_by_bytes == 0) == (not made.shortages)
    assert made.feasible == (made.predicted is not None)
    settings = [
        case
        for case in cases
        if case.setting.num_groups == made.num_groups
        and case.setting.num_microbatches == made.microbatches
        and case.setting.recompute == made.recompute
    ]
    placement = placement_of(asked, made)
    lacking = {cost(case.problem, placement).short_by_bytes for case in settings}
    assert lacking == {made.short_by_bytes}


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_stages_are_those_that_were_asked_for(seed: int, objective: Objective) -> None:
    try:
        asked, made = planned(seed, objective)
    except PlanError:
        return
    if asked.num_stages is not None:
        assert len(made.stages) == asked.num_stages
    if asked.in_order:
        assert [stage.node for stage in made.stages] == [each.node for each in asked.survey.devices]
    for stage in made.stages:
        parts = (stage.baseline_bytes, stage.weight_bytes, stage.kv_bytes, stage.workspace_bytes)
        assert stage.memory_bytes == sum(parts) + stage.inflight_bytes
        assert not made.feasible or stage.memory_bytes <= stage.memory_limit_bytes
        assert 1 <= stage.inflight <= made.microbatches


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", range(2))
def test_a_plan_comes_back_from_its_document(seed: int, objective: Objective) -> None:
    _, made = planned(seed, objective)
    text = json.dumps(made.to_json())
    again = Plan.loads(text)
    assert again == made
    assert json.dumps(again.to_json()) == text


@pytest.mark.parametrize("objective", Objective)
def test_a_prediction_is_in_the_terms_of_its_objective(objective: Objective) -> None:
    asked, made = planned(4, objective, tight=False)
    predicted = made.predicted
    assert predicted is not None
    assert 0 <= predicted.bubble < 1
    assert predicted.bubble == pytest.approx(
        1 - sum(stage.predicted_busy for stage in made.stages) / len(made.stages)
    )
    assert predicted.bottleneck.where
    trains = objective is Objective.TRAIN
    assert (predicted.step_s is not None) == trains
    assert (predicted.tokens_per_s is None) == (predicted.ttft_s is None) == trains
    assert (predicted.decode is None) == (predicted.prefill is None) == trains
    if predicted.decode is not None and predicted.prefill is not None:
        assert predicted.prefill.num_frames == asked.work.num_chunks
        assert predicted.ttft_s == predicted.prefill.seconds
        if objective is not Objective.THROUGHPUT:
            assert predicted.tokens_per_s == pytest.approx(1 / predicted.decode.seconds)


def of_a_single_stream(
    *nodes: str, slowness: tuple[float, ...], limit: int = 8 * GIB, num_stages: int | None = None
) -> Plan:
    workload = Workload(dtype=DType.BFLOAT16, num_slots=1, max_positions=2048, prefill_chunk=128)
    devices = tuple(machine(node, limit=limit) for node in nodes)
    asked = Asked.of(
        SMOL,
        surveyed(SMOL, devices, slowness),
        Work(objective=Objective.LATENCY, workload=workload),
        num_stages=num_stages,
    )
    return plan(asked, strategy=Strategy.EXACT)


def test_a_device_that_would_slow_the_pipeline_is_left_out_with_the_number() -> None:
    made = of_a_single_stream("fast", "slow", slowness=(1.0, 4.0))
    (out,) = made.left_out
    assert (out.node, out.reason) == ("slow", "it would slow the pipeline down")
    # The least that the slow one can do are a layer and an end: 6 ms more, and two hops of 0.3 ms.
    assert out.gain == pytest.approx((6e-3 + 2 * 0.3e-3) / 32e-3, rel=0.01)


def test_a_device_that_no_plan_can_use_is_said_to_be_so() -> None:
    workload = Workload(dtype=DType.BFLOAT16, num_slots=1, max_positions=2048, prefill_chunk=128)
    devices = (machine("big"), machine("tiny", limit=GIB // 4 + 1))
    work = Work(objective=Objective.LATENCY, workload=workload)
    made = plan(Asked.of(SMOL, surveyed(SMOL, devices), work), strategy=Strategy.EXACT)
    (out,) = made.left_out
    assert (out.node, out.reason, out.gain) == ("tiny", "no plan that uses it fits", None)


def test_a_device_beyond_the_stages_that_were_asked_for_is_not_judged() -> None:
    made = of_a_single_stream("a", "b", "c", slowness=(1.0, 1.0, 1.0), num_stages=2)
    assert [(out.reason, out.gain) for out in made.left_out] == [("the plan has 2 stages", None)]


def test_what_is_left_out_is_judged_only_where_that_is_wanted() -> None:
    asked = drawn(0, Objective.LATENCY, tight=False, free=True)
    judged, plain = (
        plan(asked, strategy=Strategy.EXACT, judging=judging) for judging in (True, False)
    )
    assert plain.stages == judged.stages
    assert [out.node for out in plain.left_out] == [out.node for out in judged.left_out]
    assert all(out.gain is None for out in plain.left_out)


def test_a_node_that_was_not_named_is_left_out() -> None:
    asked = drawn(0, Objective.LATENCY, tight=False, free=True)
    node = asked.survey.devices[0].node
    named = Asked.of(asked.model, asked.survey, asked.work, nodes=[node])
    made = plan(named, strategy=Strategy.EXACT)
    others = {out.node for out in made.left_out if out.reason == "its node was not named"}
    assert others == {each.node for each in asked.survey.devices} - {node}


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_leaving_out_gains_nothing_or_more(seed: int, objective: Objective) -> None:
    try:
        _, made = planned(seed, objective, tight=seed % 2 == 0)
    except PlanError:
        return
    for out in made.left_out:
        assert out.gain is None or out.gain >= 0.0, out


def test_recomputation_is_taken_where_only_it_fits() -> None:
    asked = drawn(5, Objective.TRAIN, tight=False, free=True)
    work = replace(
        asked.work, batch=Batch(mode=TrainMode.LORA, sequences=4, sequence_length=512, rank=4)
    )
    machines = (machine("a", limit=8 * GIB), machine("b", limit=8 * GIB))
    roomy = Asked.of(asked.model, surveyed(asked.model, machines), work)
    assert not plan(roomy, strategy=Strategy.EXACT).recompute
    needed = {
        case.setting.recompute: int(case.problem.stage_bytes[0, -1])
        + int(case.problem.training.inflight_bytes[0, -1])
        for case in cases_of(roomy)
        if case.setting.num_microbatches == 4 and case.problem.training is not None
    }
    assert needed[True] < needed[False]
    limit = (needed[True] + needed[False]) // 2 + GIB // 4
    alone = (machine("a", limit=limit),)
    tight = Asked.of(asked.model, surveyed(asked.model, alone), work)
    made = plan(tight, strategy=Strategy.EXACT)
    assert made.feasible
    assert made.recompute


@pytest.mark.parametrize("objective", Objective)
def test_devices_that_take_no_time_make_a_plan_without_infinities(objective: Objective) -> None:
    model = llama(num_layers=4, hidden=64, width=128, vocab=256)
    workload = Workload(dtype=DType.FLOAT32, num_slots=4, max_positions=64, prefill_chunk=16)
    work = Work(
        objective=objective,
        workload=workload,
        batch=Batch(sequences=4, sequence_length=16) if objective is Objective.TRAIN else None,
    )
    survey = surveyed(model, [machine("a"), machine("b")], [0.0, 0.0])
    made = plan(Asked.of(model, survey, work), strategy=Strategy.EXACT)
    assert Plan.loads(json.dumps(made.to_json(), allow_nan=False)) == made


def test_sixty_four_devices_can_be_planned_for_and_more_are_refused() -> None:
    model = llama(num_layers=3, hidden=64, width=128, vocab=256)
    workload = Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=64, prefill_chunk=16)
    work = Work(objective=Objective.LATENCY, workload=workload)
    machines = [machine(f"n{index}") for index in range(65)]
    slowness = [65.0 - index for index in range(65)]
    survey = surveyed(model, machines[1:], slowness[1:])
    made = plan(Asked.of(model, survey, work), strategy=Strategy.EXACT, judging=False)
    assert [stage.node for stage in made.stages] == ["n64"]
    with pytest.raises(PlanError, match="name some with --nodes"):
        plan(Asked.of(model, surveyed(model, machines, slowness), work), strategy=Strategy.EXACT)
