"""What `make bench-train` makes of measurements: the best rival, ratios by turn, misses."""

import pytest

from bench.rank_task import RankTask, Schedule
from bench.side_by_side import Bounds, Case, Turn
from bench.training_task import EmulatedTraining, LlamaTraining


def turn(gpipe: float, one_f_one_b: float, edgepipe: float | None) -> Turn:
    rival = {Schedule.GPIPE: gpipe, Schedule.ONE_F_ONE_B: one_f_one_b}
    return Turn(rival=rival, edgepipe=edgepipe)


def case(*turns: Turn, bounds: Bounds | None = None) -> Case:
    return Case(name="100mbit", bounds=bounds or Bounds(), turns=turns, ideal_step_s=1.14)


def test_the_rival_is_the_schedule_whose_median_is_least() -> None:
    measured = case(turn(2.0, 2.2, 1.0), turn(2.1, 1.9, 1.0), turn(2.0, 2.3, 1.0))
    assert measured.best_schedule is Schedule.GPIPE
    assert measured.rival_step_s(Schedule.ONE_F_ONE_B) == 2.2


def test_only_what_ran_in_one_turn_is_compared() -> None:
    quiet, noisy = turn(2.0, 9.0, 1.0), turn(6.0, 9.0, 3.0)
    assert case(quiet, noisy, noisy).ratio == 2.0


def test_a_missed_bound_is_named_with_its_numbers() -> None:
    bounds = Bounds(min_ratio=1.55, max_over_ideal=1.10)
    assert list(case(turn(1.9, 2.2, 1.3), bounds=bounds).missed()) == [
        "100mbit: edgepipe is 1.46 times as fast as GPipe, and 1.55 is wanted",
        "100mbit: edgepipe's step is 1.14 times the ideal one, and at most 1.10 is wanted",
    ]


def test_bounds_that_hold_are_not_mentioned() -> None:
    bounds = Bounds(min_ratio=1.55, max_over_ideal=1.10)
    assert not list(case(turn(2.0, 2.2, 1.2), bounds=bounds).missed())


def test_one_side_alone_misses_nothing() -> None:
    bounds = Bounds(min_ratio=1.55, max_over_ideal=1.10)
    alone = case(turn(2.0, 2.2, None), bounds=bounds)
    assert alone.ratio is None
    assert not list(alone.missed())
    assert not list(case(Turn(edgepipe=1.2), bounds=bounds).missed())


def test_the_ideal_step_is_the_issues() -> None:
    assert EmulatedTraining().ideal_step_s == pytest.approx(4 * 0.06 + 15 * 0.06)
    assert EmulatedTraining().activation_values * 4 == 256 * 1024


@pytest.mark.parametrize("training", [EmulatedTraining(num_stages=3), LlamaTraining(num_layers=6)])
def test_a_rank_reads_the_task_that_it_is_told(training: EmulatedTraining | LlamaTraining) -> None:
    task = RankTask(rank=1, rendezvous="/there", steps=5, training=training)
    assert RankTask.from_json(task.to_json()) == task


def test_a_llama_is_cut_into_equal_stages() -> None:
    assert LlamaTraining().cuts == (0, 4, 8)
