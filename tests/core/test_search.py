"""What the search answers on clusters that one can think through."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from drawn_networks import lone_devices

from edgepipe.core import horizon
from edgepipe.core.costs import cost
from edgepipe.core.goal import Goal, Latency, Prefill, Throughput, Train
from edgepipe.core.problem import Floats, Nic, Problem, Traffic, Training
from edgepipe.core.search import Solution, search

GOALS: list[Goal] = [
    Latency(),
    Throughput(num_groups=8, group_size=1),
    Prefill(num_chunks=8),
    Train(num_microbatches=8),
]


def cluster(
    speeds: list[float],
    goal: Goal,
    *,
    num_layers: int = 12,
    limit: int = 1000,
    delay: float = 0.01,
) -> Problem:
    """A device of each speed in layers per second; layers of 10 bytes, any link as good."""
    num = len(speeds)
    costs = np.array([0.5, *[1.0] * num_layers, 2.0])
    places = np.arange(num_layers + 1)
    return Problem(
        devices=lone_devices(*[limit] * num),
        item_s=costs / np.array(speeds)[:, None],
        stage_bytes=10 * np.maximum(places - places[:, None], 0),
        link_bytes_per_s=np.full((num, num), 1e9),
        link_latency_s=np.full((num, num), delay),
        traffic=Traffic(
            frame_bytes=1000, return_bytes=None if isinstance(goal, Prefill | Train) else 10
        ),
        goal=goal,
        training=training_of(costs, num) if isinstance(goal, Train) else None,
    )


def training_of(costs: Floats, num: int) -> Training:
    """Microbatches in flight keep nothing; the optimizer is quick."""
    places = len(costs) - 1
    return Training(
        inflight_bytes=np.zeros((places, places), dtype=np.int64),
        update_s=np.tile(costs / 100, (num, 1)),
    )


def devices_of(solution: Solution) -> list[int]:
    return [stage.device for stage in solution.found[0].placement]


def test_a_single_stream_runs_on_the_fastest_device_alone() -> None:
    solution = search(cluster([1, 3, 2], Latency()))
    assert devices_of(solution) == [1]
    assert solution.proven


def test_a_single_stream_takes_a_second_device_only_for_its_memory() -> None:
    solution = search(cluster([1, 3, 2], Latency(), limit=80))
    assert sorted(devices_of(solution)) == [1, 2]
    fast = next(stage for stage in solution.found[0].placement if stage.device == 1)
    assert fast.end - fast.first == 8


def test_throughput_shares_the_layers_out_by_speed() -> None:
    solution = search(cluster([1, 3], Throughput(num_groups=4, group_size=1)))
    by_device = {stage.device: stage.end - stage.first for stage in solution.found[0].placement}
    assert by_device == {0: 3, 1: 9}


def test_a_device_that_would_slow_the_pipeline_is_left_out() -> None:
    solution = search(cluster([3, 3, 0.1], Prefill(num_chunks=50)))
    assert sorted(devices_of(solution)) == [0, 1]


def test_of_equal_throughput_the_shorter_ring_is_better() -> None:
    """The NIC of each is busier than any stage could be."""
    base = cluster([1, 5, 2, 4], Throughput(num_groups=64, group_size=1), limit=110)
    nics = {one.host: Nic(send_bytes_per_s=50.0, receive_bytes_per_s=50.0) for one in base.devices}
    solution = search(replace(base, nics=nics))
    assert solution.found[0].cost.seconds == pytest.approx(20.0)
    assert sorted(devices_of(solution)) == [1, 3]


@pytest.mark.parametrize("goal", GOALS)
def test_the_placements_come_in_order_and_each_once(goal: Goal) -> None:
    problem = cluster([1, 2, 3, 4], goal)
    solution = search(problem, num_best=32)
    assert len({one.placement for one in solution.found}) == 32
    seconds = [one.cost.seconds for one in solution.found]
    assert seconds == pytest.approx(sorted(seconds))
    assert all(one.cost == cost(problem, one.placement) for one in solution.found)


@pytest.mark.parametrize("goal", GOALS)
def test_nothing_is_found_where_the_model_does_not_fit(goal: Goal) -> None:
    solution = search(cluster([1, 2, 3], goal, limit=39))
    assert solution.found == ()
    assert solution.proven
    assert search(cluster([1, 2, 3], goal, limit=40)).found


@pytest.mark.parametrize("goal", GOALS)
def test_exactly_so_many_stages(goal: Goal) -> None:
    solution = search(replace(cluster([1, 2, 3, 4], goal), num_stages=3))
    assert {len(one.placement) for one in solution.found} == {3}


@pytest.mark.parametrize("goal", GOALS)
def test_devices_in_a_given_order(goal: Goal) -> None:
    solution = search(replace(cluster([1, 2, 3, 4], goal), order=(2, 0, 3)))
    assert {tuple(stage.device for stage in one.placement) for one in solution.found} == {(2, 0, 3)}


@pytest.mark.parametrize("goal", GOALS)
def test_more_stages_than_layers_are_not_to_be_had(goal: Goal) -> None:
    problem = replace(cluster([1, 1, 1], goal, num_layers=2), num_stages=3)
    assert search(problem).found == ()


@pytest.mark.parametrize("goal", GOALS)
def test_one_layer_on_one_device(goal: Goal) -> None:
    solution = search(cluster([1], goal, num_layers=1))
    assert len(solution.found) == 1
    assert solution.proven


def test_equal_devices_are_used_in_one_order_only() -> None:
    solution = search(cluster([1, 1, 1, 1], Prefill(num_chunks=8)), num_best=1000)
    used = {tuple(stage.device for stage in one.placement) for one in solution.found}
    assert used == {(0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)}


def test_without_a_budget_the_gap_is_told() -> None:
    rng = np.random.default_rng(0)
    base = cluster([1, 2, 3, 4, 5, 6], Prefill(num_chunks=8), num_layers=30)
    noisy = replace(base, item_s=base.item_s * rng.uniform(0.9, 1.1, base.item_s.shape))
    short, full = search(noisy, max_expansions=0), search(noisy)
    best, found = full.found[0].cost.seconds, short.found[0].cost.seconds
    assert full.proven
    assert best >= found * (1 - short.gap) * (1 - 1e-9)


@pytest.mark.parametrize("goal", GOALS)
def test_many_devices_are_bounded_without_keeping_track_of_each(
    goal: Goal, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = cluster([1, 2.5, 3, 1.5, 2], goal, num_layers=24, limit=90)
    full = search(base, num_best=4)
    monkeypatch.setattr(horizon, "_TABLE_CELLS", 1.0)
    coarse = search(base, num_best=4)
    best, found = full.found[0].cost.seconds, coarse.found[0].cost.seconds
    assert full.proven
    assert best <= found * (1 + 1e-9)
    assert best >= found * (1 - coarse.gap) * (1 - 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize(("num_layers", "seconds"), [(32, 2.0), (94, 20.0)])
def test_eight_devices_are_searched_in_time(goal: Goal, num_layers: int, seconds: float) -> None:
    rng = np.random.default_rng(2)
    speeds = list(rng.uniform(0.5, 4, 8))
    base = cluster(speeds, goal, num_layers=num_layers, limit=4 * num_layers)
    noisy = replace(base, item_s=base.item_s * rng.uniform(0.95, 1.05, base.item_s.shape))
    begin = time.process_time()
    assert search(noisy).proven
    assert time.process_time() - begin < seconds
