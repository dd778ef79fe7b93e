"""The best over all settings: as if each had been searched alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from drawn_surveys import drawn
from on_paper import llama, machine, surveyed

from edgepipe.core.choosing import NUM_SIMULATED, best_of, by_rule, cases_of, find
from edgepipe.core.costs import cost, rank_of
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.guessing import guess
from edgepipe.core.outcome import play
from edgepipe.core.placing import proportional
from edgepipe.core.posing import Asked, Case
from edgepipe.core.problem import Placement, Problem, check_placement
from edgepipe.core.search import search
from edgepipe.core.work import Objective, Work

SEEDS = range(4)
CHOICES = (Objective.THROUGHPUT, Objective.TRAIN)
"""The objectives that leave a choice of settings."""


def ranks(asked: Asked, cases: tuple[Case, ...]) -> list[float]:
    """What every case alone finds, in seconds that compare, the best first."""
    return sorted(
        case.setting.weight(asked.work) * rank_of(case.problem, found.cost)
        for case in cases
        for found in search(case.problem, num_best=NUM_SIMULATED).found
    )


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_is_that_of_all_settings_searched_alone(seed: int, objective: Objective) -> None:
    asked = drawn(seed, objective)
    cases = cases_of(asked)
    found, expected = find(asked, cases), ranks(asked, cases)
    assert found.gap == 0.0
    assert bool(found.candidates) == bool(expected)
    mine = [
        case.setting.weight(asked.work) * rank_of(case.problem, cost(case.problem, placement))
        for case, placement in found.candidates
    ]
    assert mine == sorted(mine)
    assert mine[:1] == pytest.approx(expected[:1], rel=1e-9)
    close = [rank for rank in expected[:NUM_SIMULATED] if rank < 1.1 * expected[0]]
    assert mine[: len(close)] == pytest.approx(close, rel=1e-9)


@pytest.mark.parametrize("objective", CHOICES)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_candidate_is_listed_twice_and_all_fit(seed: int, objective: Objective) -> None:
    asked = drawn(seed, objective)
    candidates = find(asked, cases_of(asked)).candidates
    assert len({(id(case), placement) for case, placement in candidates}) == len(candidates)
    assert all(cost(case.problem, placement).fits for case, placement in candidates)


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_cut_short_states_a_gap_that_holds(seed: int, objective: Objective) -> None:
    asked = drawn(seed, objective, most=3, tight=False)
    cases = cases_of(asked)
    found, expected = find(asked, cases, max_expansions=1), ranks(asked, cases)
    assert 0 <= found.gap <= 1
    case, placement = found.candidates[0]
    best = case.setting.weight(asked.work) * rank_of(case.problem, cost(case.problem, placement))
    assert best * (1 - found.gap) <= expected[0] * (1 + 1e-9)


@pytest.mark.parametrize("asks", [0, 1, 3, 10, 30])
@pytest.mark.parametrize("objective", Objective)
def test_a_search_without_time_states_a_gap_that_holds(objective: Objective, asks: int) -> None:
    asked = drawn(0, objective, most=4, tight=False)
    cases = cases_of(asked)
    left = iter(range(asks))
    found = find(asked, cases, going=lambda: next(left, None) is not None)
    expected = ranks(asked, cases)
    assert 0 <= found.gap < 1
    case, placement = found.candidates[0]
    best = case.setting.weight(asked.work) * rank_of(case.problem, cost(case.problem, placement))
    assert best * (1 - found.gap) <= expected[0] * (1 + 1e-9)
    assert asks or found.gap > 0


def test_progress_tells_settings_done_of_all() -> None:
    asked = drawn(1, Objective.TRAIN, tight=False)
    cases = cases_of(asked)
    told: list[tuple[int, int]] = []
    find(asked, cases, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(cases)) for done in range(len(cases) + 1)]


def test_of_equal_figures_the_one_whose_stages_are_alike_is_chosen() -> None:
    model = llama()
    workload = Workload(dtype=DType.BFLOAT16, num_slots=4, max_positions=2048, prefill_chunk=128)
    work = Work(objective=Objective.THROUGHPUT, workload=workload)
    asked = Asked.of(model, surveyed(model, (machine("a"), machine("b"))), work, num_stages=2)
    best = best_of(asked, find(asked, cases_of(asked)).candidates)
    assert best is not None
    assert [(stage.first, stage.end) for stage in best.placement] == [(0, 15), (15, 30)]


def test_where_nothing_fits_there_is_no_candidate() -> None:
    model = llama()
    workload = Workload(dtype=DType.BFLOAT16, num_slots=1, max_positions=2048, prefill_chunk=128)
    work = Work(objective=Objective.LATENCY, workload=workload)
    small = (machine("a", limit=1 << 28), machine("b", limit=1 << 28))
    asked = Asked.of(model, surveyed(model, small), work)
    found = find(asked, cases_of(asked))
    assert found.candidates == ()
    assert best_of(asked, found.candidates) is None


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_guess_is_a_placement_that_fits_and_that_no_search_is_behind(
    seed: int, objective: Objective
) -> None:
    problem = cases_of(drawn(seed, objective))[0].problem
    guessed = guess(problem)
    if guessed is None:
        return
    rank, placement = guessed
    check_placement(problem, placement)
    assert cost(problem, placement).fits
    assert rank == rank_of(problem, cost(problem, placement))
    best = search(problem, num_best=1).found[0]
    assert rank_of(problem, best.cost) <= rank * (1 + 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_guess_is_of_the_devices_that_were_asked_for(seed: int) -> None:
    problem = cases_of(drawn(seed, Objective.LATENCY, tight=False, free=True))[0].problem
    order = tuple(reversed(range(min(len(problem.devices), problem.num_layers))))
    ordered = guess(replace(problem, order=order))
    counted = guess(replace(problem, num_stages=2))
    assert ordered is not None
    assert tuple(stage.device for stage in ordered[1]) == order
    assert counted is not None
    assert len(counted[1]) == 2


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_rule_comes_to_its_best_setting(seed: int, objective: Objective) -> None:
    asked = drawn(seed, objective, free=True)
    cases = cases_of(asked)
    devices = range(min(len(asked.survey.devices), asked.model.num_layers))

    def rule(problem: Problem) -> Placement:
        return proportional(problem, devices)

    outcome = by_rule(asked, cases, rule)
    played = [
        play(asked, case, rule(case.problem)).seconds
        for case in cases
        if cost(case.problem, rule(case.problem)).fits
    ]
    assert (outcome is None) == (not played)
    if outcome is not None:
        assert outcome.seconds <= min(played) * 1.005


def test_a_rule_that_cannot_place_comes_to_nothing() -> None:
    asked = drawn(2, Objective.LATENCY, tight=False)
    assert by_rule(asked, cases_of(asked), lambda _: ()) is None
