"""What the rest of a pipeline costs at least: tables from the last stage backwards.

Every table (edgepipe.core.steps) is made once per band: with only those stages and boundaries
whose time is at most the band's limit. Time, the load of each shared resource, and what is
taken of shared memory are minimised each on its own, so that together they bound a placement;
in a refined horizon time is minimised together with memory, at a few prices (edgepipe.core.prices).

The free devices are kept track of one by one as far as the tables stay small; beyond that, a
device may be used again, which bounds from below too, less tightly; prices on devices
(edgepipe.core.duals) make up for some of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.duals import Dual
from edgepipe.core.graph import Graph
from edgepipe.core.prices import priced, prices_of
from edgepipe.core.problem import Bools, Floats, Ints
from edgepipe.core.round_trips import claims_of, exchange_s, longest_s
from edgepipe.core.steps import Steps, backs_s, only_first, steps_of

_TABLE_CELLS = 1.5e8  # additions per table: a fraction of a second


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Priced:
    """Seconds to go with what is claimed of the last room at `prices` [K], like `total`."""

    prices: Floats
    total: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Horizon:
    """Least costs to go for pipelines that begin on one of `firsts`.

    `begun` and `total` [D, L, K, A] are seconds from where a device begins a stage, and from where
    it has ended one; `begun_trip` and `trip` the same without the way back. `loads` holds a table
    like `total` for each resource in `load_ids`, `claims` one for each kind of shared memory, and
    `priced` one for prices of it, where it is `refined`. Axis A has a place for every set of
    tracked devices, in the order of `steps.sets`. Only stages of `steps` are in the
    tables.
    """

    firsts: tuple[int, ...]
    bands: Bands
    steps: Steps
    load_ids: tuple[int, ...]
    begun: Floats
    total: Floats
    loads: tuple[Floats, ...]
    claims: tuple[Floats, ...]
    begun_trip: Floats
    trip: Floats
    priced: tuple[Priced, ...] = ()
    refined: bool = False
    dual: Dual | None = None

    def free(self, used: Ints) -> Ints:
        """Places on axis A of the devices that are left by these, as bits by device."""
        return self.steps.sets.at(~used)


def horizon_of(
    graph: Graph,
    firsts: Sequence[int],
    bands: Bands,
    *,
    tracking: bool = True,
    dual: Dual | None = None,
    possible: Bools | None = None,
) -> Horizon:
    """The tables for pipelines that begin on one of `firsts`, each with the shortest way back.

    Without `tracking` any device may be used again: tables that are quickly made, and bound less.
    A `dual` bounds besides, and only `possible` stages [D, L, L, K] are looked at.
    """
    tracked = _tracked(graph, firsts, len(bands.thresholds)) if tracking else ()
    steps, back_s = steps_of(graph, firsts, bands, tracked, possible), backs_s(graph, firsts)
    begun, total = steps.tables(graph.stage_s, graph.hop_s, back_s, longest_s(graph, bands, firsts))
    away_s = exchange_s(graph, firsts)
    load_ids = _relevant_loads(graph, bands, firsts, total) if graph.goal.weighs_bottleneck else ()
    back_loads = graph.back_loads[:, firsts].min(axis=1)
    no_stage, no_hop = np.zeros_like(graph.stage_s), np.zeros_like(graph.hop_s)
    return Horizon(
        firsts=tuple(firsts),
        bands=bands,
        steps=steps,
        dual=dual,
        load_ids=load_ids,
        begun=begun,
        total=total,
        begun_trip=begun - away_s,
        trip=total - away_s,
        loads=tuple(
            _finite(steps.tables(no_stage, graph.hop_loads[:, :, i], back_loads[:, i])[1])
            for i in load_ids
        ),
        claims=steps.several(claims_of(graph, bands, total - away_s), no_hop, no_hop[:, 0]),
    )


def refined(graph: Graph, horizon: Horizon) -> Horizon:
    """The same with shared memory priced, and round trips apart from the way back.

    That takes more tables; they are worth it where many pipelines are to be bounded.
    """
    if horizon.refined:
        return horizon
    back = backs_s(graph, horizon.firsts)
    prices = prices_of(graph, horizon.bands) if horizon.claims else []
    totals = horizon.steps.several([priced(graph, each) for each in prices], graph.hop_s, back)
    begun_trip, trip = _trips(graph, horizon)
    return replace(
        horizon,
        begun_trip=begun_trip,
        trip=trip,
        priced=tuple(
            Priced(prices=each, total=total) for each, total in zip(prices, totals, strict=True)
        ),
        refined=True,
    )


def _trips(graph: Graph, horizon: Horizon) -> tuple[Floats, Floats]:
    """Tables of round trips: made anew in training, where the way back takes time."""
    if graph.depth is None or not exchange_s(graph, horizon.firsts):
        return horizon.begun_trip, horizon.trip
    back = np.where(np.isfinite(graph.back_s[:, horizon.firsts]).any(axis=1), 0.0, np.inf)
    longest = longest_s(graph, horizon.bands)
    return horizon.steps.tables(graph.stage_s, graph.hop_s, back, longest)


def _finite(table: Floats) -> Floats:
    """With 0 for infinity: where `total` is infinite, that is enough."""
    return np.where(np.isfinite(table), table, 0.0)


def _relevant_loads(
    graph: Graph, bands: Bands, firsts: Sequence[int], total: Floats
) -> tuple[int, ...]:
    """Shared resources that may be busier than the least bottleneck that can be had."""
    begins = graph.stage_s[firsts, 0, :, None] + total[firsts, :, :, -1]
    possible = np.isfinite(begins).any(axis=(0, 1))
    least = bands.floors[possible].min(initial=np.inf)
    most = (
        graph.spread
        * graph.num_devices
        * np.maximum(graph.hop_loads.max(axis=(0, 1)), graph.back_loads.max(axis=(0, 1)))
    )
    return tuple(np.flatnonzero(most > least).tolist())


def _tracked(graph: Graph, firsts: Sequence[int], num_bands: int) -> tuple[int, ...]:
    """The devices whose use is kept track of: all that may follow, or the fastest of many."""
    devices = [d for d in range(graph.num_devices) if d not in only_first(graph, firsts)]
    cells = graph.num_devices * graph.num_layers**2 / 2 * num_bands
    most = max(1, int(np.log2(_TABLE_CELLS / cells + 1)))
    fastest = sorted(devices, key=lambda d: float(np.diagonal(graph.stage_s[d], 1).min()))
    return tuple(sorted(fastest[:most]))
