"""Prices on devices and rooms bound what any pipeline takes, and what is left of a begun one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from drawn_networks import lone_devices

from edgepipe.core.bands import Bands, Range, Spectrum
from edgepipe.core.costs import Cost, cost
from edgepipe.core.duals import Dual, Prices, Relaxed, relaxed_of, shares
from edgepipe.core.goal import Goal, Latency, Prefill, Throughput
from edgepipe.core.graph import Graph, graph_of
from edgepipe.core.problem import Placement, Problem, Stage, Traffic
from edgepipe.core.search import search

LAYERS = 8
LIMIT = 40
GOALS = (Latency(), Throughput(num_groups=2, group_size=1))


def problem(goal: Goal) -> Problem:
    """A quick device and one beside it that share 40 bytes, and two slow ones of 40 bytes each.

    Layers take 10 bytes. Nothing goes back, so any device may follow any other.
    """
    places = np.arange(LAYERS + 1)
    quick, other, *slow = lone_devices(*[LIMIT] * 4)
    items = np.array([0.0, *[1.0] * LAYERS, 0.5])
    return Problem(
        devices=(quick, replace(other, node=quick.node, device="gpu", host=quick.host), *slow),
        item_s=items * np.array([1.0, 2.0, 5.0, 6.0])[:, None],
        stage_bytes=10 * np.maximum(places - places[:, None], 0),
        link_bytes_per_s=np.full((4, 4), 1e9),
        link_latency_s=np.full((4, 4), 0.5),
        traffic=Traffic(frame_bytes=0),
        goal=goal,
    )


def costed(given: Problem) -> Iterator[tuple[Placement, Cost]]:
    """Every placement of two stages or more that fits."""
    for count in range(2, 5):
        for devices in permutations(range(4), count):
            for cuts in combinations(range(1, LAYERS), count - 1):
                placement = tuple(
                    Stage(device=device, first=first, end=end)
                    for device, (first, end) in zip(
                        devices, pairwise((0, *cuts, LAYERS)), strict=True
                    )
                )
                costs = cost(given, placement)
                if costs.fits:
                    yield placement, costs


def relaxed(given: Problem) -> tuple[Graph, Bands, Relaxed]:
    graph = graph_of(given)
    spectrum = Spectrum.of(graph)
    bands = spectrum.bands(Range(0, len(spectrum.values)))
    return graph, bands, relaxed_of(graph, range(4), bands)


def band_of(bands: Bands, costs: Cost) -> int:
    return int(np.searchsorted(bands.thresholds, costs.bottleneck.seconds * (1 - 1e-12)))


def test_every_round_of_prices_bounds_what_fits_and_some_rounds_bound_more() -> None:
    for goal in GOALS:
        given = problem(goal)
        graph, bands, pipelines = relaxed(given)
        wholes = [pipelines.dual(Prices.none(graph, bands), rounds).whole for rounds in (0, 5, 40)]
        for placement, costs in costed(given):
            assert all(
                whole[band_of(bands, costs)] <= costs.total_s * (1 + 1e-9) for whole in wholes
            ), placement
        assert (wholes[0] <= wholes[1]).all()
        assert (wholes[0] < wholes[2]).any()


def test_what_the_cheapest_pipeline_takes_too_much_of_gets_a_price_and_nothing_else() -> None:
    graph, bands, pipelines = relaxed(problem(Latency()))
    prices = pipelines.dual(Prices.none(graph, bands), 40).prices
    assert prices.rooms.max() > 0
    assert prices.devices[3] == 0


def test_a_quick_device_that_no_memory_limits_has_its_price() -> None:
    roomy = problem(Latency())
    quick, *others = roomy.devices
    alone = replace(quick, node="alone", host="alone")
    graph, bands, pipelines = relaxed(replace(roomy, devices=(alone, *others)))
    prices = pipelines.dual(Prices.none(graph, bands), 40).prices
    assert prices.devices[0] > 0
    assert prices.devices[3] == 0


@pytest.mark.parametrize("goal", GOALS)
def test_the_rest_of_a_begun_pipeline_takes_no_less_than_its_bound(goal: Goal) -> None:
    given = problem(goal)
    graph, bands, pipelines = relaxed(given)
    dual = pipelines.dual(Prices.none(graph, bands), 40)
    for placement, costs in costed(given):
        for at in range(1, len(placement)):
            bound = bound_of(graph, dual, placement[:at], band_of(bands, costs))
            rest_s = sum(costs.stage_s[at:]) + sum(costs.hop_s[at - 1 :])
            assert bound <= rest_s * (1 + 1e-9), placement


def bound_of(graph: Graph, dual: Dual, begun: Placement, band: int) -> float:
    used = np.array([sum(1 << stage.device for stage in begun)])
    taken = sum(graph.memory.claims[:, stage.device, stage.first, stage.end] for stage in begun)
    left = shares(graph, graph.memory.rooms - taken)[None]
    cells = (np.array([begun[-1].end]), np.array([begun[-1].device]), np.array([band]))
    return float(dual.bounds(used, left, np.zeros(1, dtype=np.int64), cells)[0])


@pytest.mark.parametrize("goal", GOALS)
def test_no_stage_of_what_is_worth_finding_is_ruled_out_and_others_are(goal: Goal) -> None:
    given = problem(goal)
    graph, bands, pipelines = relaxed(given)
    found = list(costed(given))
    limit = sorted(costs.seconds for _, costs in found)[3]
    most_s = goal.total_s(limit, bands.floors)
    dual = pipelines.dual(Prices.none(graph, bands), 40, most_s)
    possible = pipelines.possible(dual.prices, most_s)
    for placement, costs in found:
        if costs.seconds < limit:
            band = band_of(bands, costs)
            assert all(possible[stage.device, stage.first, stage.end, band] for stage in placement)
    assert possible.sum() < np.isfinite(pipelines.stages).sum()


def test_placements_that_take_as_long_as_any_can_are_found() -> None:
    layers = np.array([0.0, 1.41696931, 0.61, 0.99123, 0.81369, 1.39, 0.8047, 2.7, 0.61])
    stage_bytes = 10 * np.maximum(np.arange(8) - np.arange(8)[:, None], 0)
    given = Problem(
        devices=lone_devices(30, 30, 30),
        item_s=np.tile(layers, (3, 1)),
        stage_bytes=stage_bytes,
        link_bytes_per_s=np.full((3, 3), 1e9),
        link_latency_s=np.full((3, 3), 1.19482168),
        traffic=Traffic(frame_bytes=0),
        goal=Prefill(num_chunks=1),
    )
    found = search(given).found
    lengths = {tuple(stage.end - stage.first for stage in each.placement) for each in found}
    assert lengths == {(1, 3, 3), (2, 2, 3), (2, 3, 2), (3, 1, 3), (3, 2, 2), (3, 3, 1)}
