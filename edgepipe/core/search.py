"""The best placements of a problem: subset of devices, their order, and the cuts.

Exact for the cost model of edgepipe.core.costs: the answer comes with a proof, or with the gap to
what may still be better where the search ran out of its budget.

For each first device (the way home depends on it), the range of the bottleneck is cut into bands,
the horizon says what the rest of a pipeline costs at least in each band, and a beam walks through
all pipelines that may still be among the best. Bands that cannot hold one are left out and the
others cut finer; then the beam is widened until it gives nothing up for want of width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.bands import NUM_BANDS, Range, Spectrum
from edgepipe.core.beam import Beam
from edgepipe.core.best import Best
from edgepipe.core.costs import Cost, cost
from edgepipe.core.going import Going, always
from edgepipe.core.graph import Graph, graph_of
from edgepipe.core.horizon import Horizon, horizon_of
from edgepipe.core.problem import Floats, Placement, Problem

_FIRST_WIDTH = 64
_WIDER = 8
_SHRUNK = 0.75
_SHARES = 3  # the most promising first device may use up so much of the budget, and so on


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
    graph = graph_of(problem)
    best = Best(problem=problem, num=num_best, worth=worth)
    run = _Search(
        graph=graph, spectrum=Spectrum.of(graph), best=best, budget=max_expansions, going=going
    )
    run.run()
    ordered = sorted(best.ranks, key=best.ranks.__getitem__)
    found = tuple(Found(placement=one, cost=cost(problem, one)) for one in ordered)
    return Solution(found=found, gap=run.gap(), expansions=run.expansions)


@dataclass(slots=True, kw_only=True)
class _Search:
    """The search of one problem; `unproven` bounds what the first devices so far left open."""

    graph: Graph
    spectrum: Spectrum
    best: Best
    budget: int
    going: Going
    expansions: int = 0
    unproven: float = np.inf

    def run(self) -> None:
        """Look at every first device shortly, then at each until it is done with."""
        roots = _roots(self.graph)
        looks = [self._glance(firsts) for firsts in roots if self.going()]
        if len(looks) < len(roots):
            self.unproven = _floor(self.graph)
        looks = [self._look(glance) for glance in sorted(looks, key=_Look.least)]
        looks.sort(key=_Look.least)
        for index, look in enumerate(looks):
            share = max(0, self.budget - self.expansions) // min(len(looks) - index, _SHARES)
            self.unproven = min(self.unproven, self._settle(look, self.expansions + share))

    def gap(self) -> float:
        """How much better than the best one found another may be, as a share of its figure."""
        best = min(self.best.first, self.best.worth)
        if self.unproven >= best:
            return 0.0
        return float(1 - self.unproven / best) if np.isfinite(best) else 1.0

    def _glance(self, firsts: tuple[int, ...]) -> _Look:
        """With no device kept track of; of no use where anything is worth finding."""
        within = Range(0, self._num_useful())
        if np.isfinite(self.best.limit):
            return self._seen(firsts, within, tracking=False)
        bounds = np.full(len(within.edges()) - 1, _floor(self.graph))
        return _Look(firsts=firsts, within=within, bounds=bounds)

    def _look(self, glance: _Look) -> _Look:
        """At what may be worth it."""
        useful = glance.useful(self.best.limit)
        if useful is None or not self.going():
            return glance
        return self._seen(glance.firsts, useful, tracking=True)

    def _seen(self, firsts: tuple[int, ...], within: Range, *, tracking: bool) -> _Look:
        bands = self.spectrum.bands(within)
        horizon = horizon_of(self.graph, firsts, bands, tracking=tracking)
        beam = self._walk(horizon, _FIRST_WIDTH)
        return _Look(firsts=firsts, within=within, bounds=beam.bounds_by_band())

    def _num_useful(self) -> int:
        """How many of the values a bottleneck may have in something better than the limit."""
        floors = self.spectrum.floors
        useful = self.graph.goal.rank(np.zeros_like(floors), floors) < self.best.limit
        return max(1, int(useful.sum()))

    def _settle(self, look: _Look, end: int) -> float:
        """Search until nothing better is left or `end` expansions; a bound of what is left."""
        width = _FIRST_WIDTH
        if not self.going():
            return look.least()
        while (within := look.useful(self.best.limit)) is not None:
            horizon = horizon_of(self.graph, look.firsts, self.spectrum.bands(within))
            while True:
                beam = self._walk(horizon, width)
                bounds = beam.bounds_by_band()
                look = _Look(firsts=look.firsts, within=within, bounds=bounds)
                left = max(beam.unproven, float(bounds.min()))
                if left >= self.best.limit:
                    return left
                wider = min(width * _WIDER, (end - self.expansions) // self.graph.num_devices)
                if wider <= width or not self.going():
                    return left
                if look.shrinks(self.best.limit):
                    break
                width = wider
        return np.inf

    def _walk(self, horizon: Horizon, width: int) -> Beam:
        beam = Beam(
            graph=self.graph, horizon=horizon, best=self.best, width=width, going=self.going
        )
        beam.walk()
        self.expansions += beam.expansions
        return beam


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """What is known of the pipelines that begin on `firsts`: a bound for each band of `within`."""

    firsts: tuple[int, ...]
    within: Range
    bounds: Floats

    def least(self) -> float:
        """No pipeline of two stages or more ranks below it."""
        return float(self.bounds.min())

    def useful(self, limit: float) -> Range | None:
        """The range of the bands that may hold something better than the limit."""
        bands = np.flatnonzero(self.bounds < limit)
        if not bands.size:
            return None
        edges = self.within.edges()
        return Range(int(edges[bands[0]]), int(edges[bands[-1] + 1]))

    def shrinks(self, limit: float) -> bool:
        """The bands could be cut finer, in a range that is worth it."""
        useful = self.useful(limit)
        finer = self.within.size > NUM_BANDS
        return useful is None or (finer and useful.size <= _SHRUNK * self.within.size)


def _roots(graph: Graph) -> list[tuple[int, ...]]:
    """First devices, the fastest first; each on its own where the way back to it matters."""
    firsts = np.flatnonzero(np.isfinite(graph.enter_s) & (graph.twin < 0)).tolist()
    if not graph.goes_back:
        return [tuple(firsts)]
    firsts.sort(key=lambda device: float(np.diagonal(graph.stage_s[device], 1).min()))
    return [(first,) for first in firsts]


def _floor(graph: Graph) -> float:
    """No placement ranks below this: each layer where it is fastest, in as many equal stages."""
    total = float(np.diagonal(graph.stage_s.min(axis=0), 1).sum())
    most = graph.num_stages or min(graph.num_devices, graph.num_layers)
    return float(graph.goal.rank(total, total / most))
