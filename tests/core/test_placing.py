"""Placements by rule: in proportion to speed, and to memory where nothing fits."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from drawn_surveys import drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from on_paper import GIB, llama, machine, surveyed

from edgepipe.core.candidates import Candidate
from edgepipe.core.choosing import cases_of
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.placing import proportional, ranged, roomiest
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Placement, Problem, check_placement
from edgepipe.core.work import Objective, Work

SMOL = llama()


def problem_of(devices: tuple[Candidate, ...], slowness: tuple[float, ...]) -> Problem:
    workload = Workload(dtype=DType.BFLOAT16, num_slots=1, max_positions=2048, prefill_chunk=128)
    work = Work(objective=Objective.LATENCY, workload=workload)
    return cases_of(Asked.of(SMOL, surveyed(SMOL, devices, slowness), work))[0].problem


def counts(placement: Placement) -> list[int]:
    return [stage.end - stage.first for stage in placement]


def test_a_sole_device_takes_all() -> None:
    problem = problem_of((machine("a"),), (1.0,))
    assert counts(proportional(problem, [0])) == [30]


@pytest.mark.parametrize(
    ("slowness", "layers"),
    [
        pytest.param((1.0, 1.0), [15, 15], id="equal"),
        pytest.param((2.0, 1.0), [10, 20], id="twice as fast"),
        pytest.param((1.0, 3.0), [23, 7], id="a third as fast"),
        pytest.param((1.0, 1.0, 2.0), [12, 12, 6], id="three"),
    ],
)
def test_shares_follow_speed(slowness: tuple[float, ...], layers: list[int]) -> None:
    devices = tuple(machine(f"n{at}") for at in range(len(slowness)))
    found = counts(proportional(problem_of(devices, slowness), range(len(slowness))))
    assert all(abs(mine - wanted) <= 1 for mine, wanted in zip(found, layers, strict=True))


def test_the_order_given_is_the_pipelines() -> None:
    devices = tuple(machine(f"n{at}") for at in range(3))
    placement = proportional(problem_of(devices, (1.0, 2.0, 4.0)), [2, 0, 1])
    assert [stage.device for stage in placement] == [2, 0, 1]
    assert counts(placement)[1] > counts(placement)[2] > counts(placement)[0]


def test_a_fast_device_takes_no_more_than_its_memory_holds() -> None:
    room = 150 * (1 << 20)
    devices = (machine("a", limit=GIB // 4 + room), machine("b"))
    problem = problem_of(devices, (1.0, 10.0))
    first, rest = proportional(problem, [0, 1])
    assert problem.stage_bytes[0, first.end] <= room < problem.stage_bytes[0, first.end + 1]
    assert rest.end == 30


def holds(problem: Problem, placement: Placement) -> bool:
    """Each device, by its own limit, with one microbatch in flight."""
    for stage in placement:
        where, held = problem.devices[stage.device], problem.stage_bytes[stage.first, stage.end]
        if problem.training is not None:
            held = held + problem.training.inflight_bytes[stage.first, stage.end]
        if where.baseline_bytes + held > where.memory_limit_bytes:
            return False
    return True


def every_cut(problem: Problem, devices: list[int]) -> list[Placement]:
    num = problem.num_layers
    cuts = combinations(range(1, num), len(devices) - 1)
    return [ranged(list(pairwise((0, *cut, num))), devices) for cut in cuts]


@given(seed=st.integers(0, 10**6), objective=st.sampled_from(Objective), data=st.data())
@settings(max_examples=60, deadline=None)
def test_each_layer_once_and_within_memory_wherever_any_cut_is(
    seed: int, objective: Objective, data: st.DataObject
) -> None:
    asked = drawn(seed, objective, tight=True, free=True)
    problem = cases_of(asked)[-1].problem
    order = data.draw(st.permutations(range(len(problem.devices))))
    devices = order[: min(len(order), problem.num_layers)]
    placement = proportional(problem, devices)
    check_placement(problem, placement)
    assert [stage.device for stage in placement] == devices
    possible = any(holds(problem, cut) for cut in every_cut(problem, devices))
    assert holds(problem, placement) == possible


def test_where_nothing_fits_speed_alone_decides() -> None:
    devices = tuple(machine(f"n{at}", limit=GIB // 4 + 1) for at in range(2))
    assert counts(proportional(problem_of(devices, (1.0, 1.0)), [0, 1])) == [15, 15]


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_layers_by_memory_are_each_placed_once(seed: int) -> None:
    problem = cases_of(drawn(seed, Objective.LATENCY, tight=True, free=True))[0].problem
    devices = range(min(len(problem.devices), problem.num_layers))
    check_placement(problem, roomiest(problem, devices))


def test_layers_by_memory_follow_it() -> None:
    devices = (machine("a", limit=GIB // 4 + 300), machine("b", limit=GIB // 4 + 100))
    found = counts(roomiest(problem_of(devices, (1.0, 1.0)), [0, 1]))
    assert found == [22, 8]
    assert np.sum(found) == 30
