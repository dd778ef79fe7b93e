"""The best placements of a problem: subset of devices, their order, and the cuts.

Exact for the cost model of edgepipe.core.costs: the answer comes with a proof, or with the gap to
what may still be better where the search ran out of its budget.

The range of the bottleneck is cut into bands, the horizon says what the rest of a pipeline costs at
least in each band, and a beam walks through all pipelines that may still be among the best.

    overview      all first devices together: prices (edgepipe.core.duals), a narrow beam
    each look     a first device's pipelines (the way home depends on it): prices leave out bands,
                  cut the others finer, and rule out stages; then tables that keep track of
                  devices, and a beam, wider each time until it gives nothing up for want of width

The next look is always where the bound is least, over all first devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepipe.core.bands import NUM_BANDS, Bands, Range, Spectrum
from edgepipe.core.beam import Beam
from edgepipe.core.best import Best
from edgepipe.core.costs import Cost, cost
from edgepipe.core.duals import Dual, Prices, relaxed_of
from edgepipe.core.going import Going, always
from edgepipe.core.graph import Graph, graph_of
from edgepipe.core.horizon import Horizon, horizon_of, refined
from edgepipe.core.look import Look
from edgepipe.core.problem import Bools, Floats, Placement, Problem, Stage
from edgepipe.core.round_trips import WHOLE

_FIRST_WIDTH = 128
_WIDER = 8
_OVERVIEW_WIDTH = 64
_MOST_ROUNDS = 60
_FEW_ROUNDS = 20
"""Of prices; the fewer devices, the fewer prices there are to find."""
_FEW_BANDS = 8
"""Of a first look, which is to find good placements and to close what is quickly closed."""
_MUCH = 0.9
"""Another overview is worth it where the one before has lowered the limit to this share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A placement that fits, and its cost."""

    placement: Placement
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The best placements, the best first; none where none fits.

    No placement is better than the first by more than the share `gap` of its figure: 0 is a proof
    that it is the best, or, without placements, that none fits that is worth it. Without
    placements, proof and a figure that they had to be worth, the gap is 1.
    """

    found: tuple[Found, ...]
    gap: float
    expansions: int

    @property
    def proven(self) -> bool:
        """Nothing better can be found."""
        return self.gap == 0


def search(
    problem: Problem,
    *,
    num_best: int = 32,
    max_expansions: int = 200_000,
    worth: float = np.inf,
    going: Going = always,
) -> Solution:
    """The `num_best` best placements that fit.

    Only those that rank below `worth` (see `costs.rank_of`) are looked for. `max_expansions` bounds
    the work, counted in begun pipelines that are extended by a stage, and `going` its time.
    """
    run = Search.of(
        problem, num_best=num_best, max_expansions=max_expansions, worth=worth, going=going
    )
    while run.open:
        run.step()
    ordered = sorted(run.best.ranks, key=run.best.ranks.__getitem__)
    found = tuple(Found(placement=one, cost=cost(problem, one)) for one in ordered)
    return Solution(found=found, gap=run.gap(), expansions=run.expansions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Priced:
    """Bands, bounds of pipelines in them [K], and stages of those worth finding [D, L, L, K]."""

    bands: Bands
    dual: Dual
    bounds: Floats
    possible: Bools


@dataclass(slots=True, kw_only=True)
class Search:
    """The search of one problem, in steps: at first at all pipelines, then where most may be left.

    `looks` are None before the first step; `unproven` bounds what was left open for want of time or
    expansions. `held` is the horizon of the look that was searched last, and `prices` are the
    overview's.
    """

    graph: Graph
    spectrum: Spectrum
    best: Best
    budget: int
    going: Going
    expansions: int = 0
    looks: list[Look] | None = None
    unproven: float = np.inf
    held: tuple[Look, Horizon] | None = None
    prices: Prices | None = None

    @classmethod
    def of(
        cls,
        problem: Problem,
        *,
        num_best: int,
        max_expansions: int,
        worth: float = np.inf,
        going: Going = always,
    ) -> Search:
        """Before its first step; see `search`."""
        graph = graph_of(problem)
        return cls(
            graph=graph,
            spectrum=Spectrum.of(graph),
            best=Best(problem=problem, num=num_best, worth=worth),
            budget=max_expansions,
            going=going,
        )

    @property
    def left(self) -> float:
        """No placement that is not yet found ranks below it, or below the limit."""
        if self.looks is None:
            return _floor(self.graph)
        return min([self.unproven, *map(_left, self.looks)])

    @property
    def open(self) -> bool:
        """Another step may find something."""
        if not self.going():
            return False
        if self.looks is None:
            return True
        return any(look.left < self.best.limit for look in self.looks)

    def step(self) -> None:
        """Look at all pipelines at first, then at those of which most may be left."""
        if self.looks is None:
            self.looks = self._overview(_roots(self.graph))
        else:
            look = min(self.looks, key=_left)
            self.looks.remove(look)
            self.looks += self._searched(look)

    def gap(self) -> float:
        """How much better than the best one found another may be, as a share of its figure."""
        best = min(self.best.first, self.best.worth)
        left = self.left
        if left >= best:
            return 0.0
        return float(1 - left / best) if np.isfinite(best) else 1.0

    def _overview(self, roots: Sequence[tuple[int, ...]]) -> list[Look]:
        """Beams through all pipelines at once, until they find nothing much better."""
        firsts = tuple(first for root in roots for first in root)
        self._offer_single(firsts)
        while True:
            before, within = self.best.limit, Range(0, self._num_useful())
            bands = self.spectrum.bands(within)
            priced = self._priced(firsts, bands, min(_MOST_ROUNDS, 4 * self.graph.num_devices))
            self.prices = priced.dual.prices
            if not (priced.bounds < before).any():
                return []
            horizon = horizon_of(
                self.graph,
                firsts,
                bands,
                tracking=False,
                dual=priced.dual,
                possible=priced.possible,
            )
            beam = self._walk(horizon, _OVERVIEW_WIDTH)
            if not self.best.limit < before * _MUCH or not self.going():
                break
        return [
            Look(firsts=root, within=within, bounds=beam.bounds_by_band(root), width=_FIRST_WIDTH)
            for root in roots
        ]

    def _offer_single(self, firsts: Sequence[int]) -> None:
        """Every device alone."""
        if self.graph.num_stages not in {None, 1}:
            return
        for device in firsts:
            if np.isfinite(self.graph.stage_s[device, 0, -1]):
                self.best.offer((Stage(device=device, first=0, end=self.graph.num_layers),))

    def _priced(self, firsts: tuple[int, ...], bands: Bands, rounds: int) -> _Priced:
        goal, most = self.graph.goal, _most_s(self.graph)
        relaxed = relaxed_of(self.graph, firsts, bands)
        most_s = np.minimum(most, goal.total_s(self.best.limit, bands.floors))
        prices = (
            Prices.none(self.graph, bands) if self.prices is None else self.prices.in_bands(bands)
        )
        dual = relaxed.dual(prices, rounds, most_s)
        bounds = np.where(dual.whole > most, np.inf, goal.rank(dual.whole, bands.floors))
        return _Priced(
            bands=bands, dual=dual, bounds=bounds, possible=relaxed.possible(dual.prices, most_s)
        )

    def _num_useful(self) -> int:
        """How many of the values a bottleneck may have in something better than the limit."""
        floors = self.spectrum.floors
        useful = self.graph.goal.rank(np.zeros_like(floors), floors) < self.best.limit
        return max(1, int(useful.sum()))

    def _searched(self, look: Look) -> list[Look]:
        """What is left of it after one more beam: finer bands come next, or a wider beam."""
        prepared = self._prepared(look)
        if prepared is None:
            return []
        horizon, within = prepared
        beam = self._walk(horizon, look.width)
        look = replace(look, within=within, bounds=beam.bounds_by_band(), unproven=beam.unproven)
        if look.left >= self.best.limit:
            return []
        wider = min(look.width * _WIDER, (self.budget - self.expansions) // self.graph.num_devices)
        if wider <= look.width or not self.going():
            self.unproven = min(self.unproven, look.left)
            return []
        look = replace(look, width=wider)
        if not look.shrinks(self.best.limit):
            self.held = (look, horizon)
        return [look]

    def _prepared(self, look: Look) -> tuple[Horizon, Range] | None:
        """A refined horizon and its range: the one held, or anew.

        None where nothing is left that is worth finding.
        """
        if self.held is not None and self.held[0] is look:
            return refined(self.graph, self.held[1]), look.within
        self.held = None  # two of them may be too large
        narrowed = self._narrowed(look)
        if narrowed is None:
            return None
        priced, within = narrowed
        horizon = horizon_of(
            self.graph, look.firsts, priced.bands, dual=priced.dual, possible=priced.possible
        )
        if self._beam(horizon, look.width).bounds_by_band().min() >= self.best.limit:
            return None
        return refined(self.graph, horizon), within

    def _narrowed(self, look: Look) -> tuple[_Priced, Range] | None:
        """The range that prices leave of it, in finer and finer bands."""
        while True:
            within = look.useful(self.best.limit)
            if within is None:
                return None
            bands = self.spectrum.bands(
                within, _FEW_BANDS if look.width == _FIRST_WIDTH else NUM_BANDS
            )
            rounds = min(_FEW_ROUNDS, self.graph.num_devices)  # from the overview's prices on
            priced = self._priced(look.firsts, bands, rounds)
            look = replace(look, within=within, bounds=priced.bounds)
            if not look.shrinks(self.best.limit) and look.useful(self.best.limit) is not None:
                return priced, within

    def _walk(self, horizon: Horizon, width: int) -> Beam:
        beam = self._beam(horizon, width)
        beam.walk()
        self.expansions += beam.expansions
        return beam

    def _beam(self, horizon: Horizon, width: int) -> Beam:
        return Beam(
            graph=self.graph, horizon=horizon, best=self.best, width=width, going=self.going
        )


def _left(look: Look) -> float:
    return look.left


def _roots(graph: Graph) -> list[tuple[int, ...]]:
    """First devices, the fastest first; each on its own where the way back to it matters."""
    firsts = np.flatnonzero(np.isfinite(graph.enter_s) & (graph.twin < 0)).tolist()
    if not graph.goes_back:
        return [tuple(firsts)]
    firsts.sort(key=lambda device: float(np.diagonal(graph.stage_s[device], 1).min()))
    return [(first,) for first in firsts]


def _most_s(graph: Graph) -> float:
    """No placement takes longer in all: each layer where it is slowest, over the slowest hops."""
    layers = np.diagonal(graph.stage_s, 1, axis1=1, axis2=2)
    slowest = np.where(np.isfinite(layers), layers, 0.0).max(axis=0)
    hops = [link[np.isfinite(link)].max(initial=0.0) for link in (graph.hop_s, graph.back_s)]
    most_s = slowest.sum() + hops[0] * (graph.num_devices - 1) + hops[1]
    return float(most_s * (1 + WHOLE))


def _floor(graph: Graph) -> float:
    """No placement ranks below this: each layer where it is fastest, in as many equal stages."""
    total = float(np.diagonal(graph.stage_s.min(axis=0), 1).sum())
    most = graph.num_stages or min(graph.num_devices, graph.num_layers)
    return float(graph.goal.rank(total, total / most))
