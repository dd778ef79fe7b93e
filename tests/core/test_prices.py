"""A price on shared memory bounds what leaves it out, and never what can be had."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
from drawn_networks import lone_devices

from edgepipe.core.bands import Range, Spectrum
from edgepipe.core.beam import Beam
from edgepipe.core.best import Best
from edgepipe.core.costs import cost, rank_of
from edgepipe.core.goal import Latency
from edgepipe.core.graph import graph_of
from edgepipe.core.horizon import horizon_of, refined
from edgepipe.core.prices import priced, prices_of
from edgepipe.core.problem import Placement, Problem, Stage, Traffic

LAYERS = 12
LIMIT = 60


def problem() -> Problem:
    """Two quick devices that share 60 bytes, and two slow ones of 60 bytes each; layers of 10."""
    places = np.arange(LAYERS + 1)
    quick, other, *slow = lone_devices(*[LIMIT] * 4)
    items = np.array([0.0, *[1.0] * LAYERS, 0.0])
    return Problem(
        devices=(quick, replace(other, node=quick.node, device="gpu", host=quick.host), *slow),
        item_s=items * np.array([1.0, 2.0, 5.0, 6.0])[:, None],
        stage_bytes=10 * np.maximum(places - places[:, None], 0),
        link_bytes_per_s=np.full((4, 4), 1e9),
        link_latency_s=np.full((4, 4), 0.5),
        traffic=Traffic(frame_bytes=0),
        goal=Latency(),
    )


def placements(first: int) -> list[Placement]:
    """All on two or three devices that begin on this one, with every cut."""
    others = [device for device in range(4) if device != first]
    two = [
        ((first, 0, cut), (device, cut, LAYERS)) for device in others for cut in range(1, LAYERS)
    ]
    three = [
        ((first, 0, cut), (a, cut, end), (b, end, LAYERS))
        for a, b in permutations(others, 2)
        for cut in range(1, LAYERS - 1)
        for end in range(cut + 1, LAYERS)
    ]
    return [
        tuple(Stage(device=device, first=begin, end=end) for device, begin, end in stages)
        for stages in (*two, *three)
    ]


def bounds(first: int) -> tuple[float, float]:
    """What pipelines that begin on a device take at least, without and with prices."""
    graph = graph_of(problem())
    spectrum = Spectrum.of(graph)
    bands = spectrum.bands(Range(0, len(spectrum.values)))
    plain = horizon_of(graph, (first,), bands)
    found = [
        Beam(
            graph=graph, horizon=each, best=Best(problem=problem(), num=1), width=1
        ).bounds_by_band()
        for each in (plain, refined(graph, plain))
    ]
    return float(found[0].min()), float(found[1].min())


def test_prices_raise_the_bound_and_never_above_the_best() -> None:
    for first in range(4):
        costs = [cost(problem(), each) for each in placements(first)]
        best = min(rank_of(problem(), each) for each in costs if each.fits)
        without, with_prices = bounds(first)
        assert without <= with_prices <= best + 1e-9
    assert bounds(2)[0] < bounds(2)[1]


def test_a_stage_in_shared_memory_is_dearer_by_what_it_claims() -> None:
    graph = graph_of(problem())
    bands = Spectrum.of(graph).bands(Range(0, 1))
    prices = prices_of(graph, bands)[-1]
    assert prices == np.array([6.0])
    assert priced(graph, prices)[0, 1, 4, 0] == 3 * 1.0 + 3 * 6.0
    assert priced(graph, prices)[2, 1, 4, 0] == 3 * 5.0
