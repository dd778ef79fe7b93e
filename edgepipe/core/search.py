"""The best placements of a problem: subset of devices, their order, and the cuts.

Exact for the cost model of edgepipe.core.costs: the answer comes with a proof, or with the gap to
what may still be better where the search ran out of its budget.

For each first device (the way home depends on it), the range of the bottleneck is cut into bands,
the horizon says what the rest of a pipeline costs at least in each band, and a beam walks through
all pipelines that may still be among the best. Bands that cannot hold one are left out and the
others cut finer; then the beam is widened until it gives nothing up for want of width. The next
beam is always where the bound is least, over all first devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from edgepipe.core.bands import Range, Spectrum
from edgepipe.core.beam import Beam
from edgepipe.core.best import Best
from edgepipe.core.costs import Cost, cost
from edgepipe.core.going import Going, always
from edgepipe.core.graph import Graph, graph_of
from edgepipe.core.horizon import Horizon, horizon_of, refined
from edgepipe.core.look import Look
from edgepipe.core.problem import Placement, Problem

_FIRST_WIDTH = 64
_WIDER = 8


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
    """The search of one problem; `unproven` bounds what was left open.

    `held` is the horizon of the look that was searched last.
    """

    graph: Graph
    spectrum: Spectrum
    best: Best
    budget: int
    going: Going
    expansions: int = 0
    unproven: float = np.inf
    held: tuple[Look, Horizon] | None = None

    def run(self) -> None:
        """Look at every first device shortly, then search on where most may be left."""
        roots = _roots(self.graph)
        looks = [self._glance(firsts) for firsts in roots if self.going()]
        if len(looks) < len(roots):
            self.unproven = _floor(self.graph)
        looks = [self._look(glance) for glance in sorted(looks, key=_left)]
        while looks and self.going():
            look = min(looks, key=_left)
            if look.left >= self.best.limit:
                break
            looks.remove(look)
            looks += self._searched(look)
        self.unproven = min([self.unproven, *map(_left, looks)])

    def gap(self) -> float:
        """How much better than the best one found another may be, as a share of its figure."""
        best = min(self.best.first, self.best.worth)
        if self.unproven >= best:
            return 0.0
        return float(1 - self.unproven / best) if np.isfinite(best) else 1.0

    def _glance(self, firsts: tuple[int, ...]) -> Look:
        """With no device kept track of; of no use where anything is worth finding."""
        within = Range(0, self._num_useful())
        if np.isfinite(self.best.limit):
            return self._seen(firsts, within, tracking=False)
        bounds = np.full(len(within.edges()) - 1, _floor(self.graph))
        return Look(firsts=firsts, within=within, bounds=bounds, width=_FIRST_WIDTH)

    def _look(self, glance: Look) -> Look:
        """At what may be worth it."""
        useful = glance.useful(self.best.limit)
        if useful is None or not self.going():
            return glance
        within = Range(useful.low, max(useful.low + 1, min(useful.high, self._num_useful())))
        return self._seen(glance.firsts, within, tracking=True)

    def _seen(self, firsts: tuple[int, ...], within: Range, *, tracking: bool) -> Look:
        bands = self.spectrum.bands(within)
        horizon = horizon_of(self.graph, firsts, bands, tracking=tracking)
        beam = self._walk(horizon, _FIRST_WIDTH)
        return Look(firsts=firsts, within=within, bounds=beam.bounds_by_band(), width=_FIRST_WIDTH)

    def _num_useful(self) -> int:
        """How many of the values a bottleneck may have in something better than the limit."""
        floors = self.spectrum.floors
        useful = self.graph.goal.rank(np.zeros_like(floors), floors) < self.best.limit
        return max(1, int(useful.sum()))

    def _searched(self, look: Look) -> list[Look]:
        """What is left of it after one more beam: finer bands come next, or a wider beam."""
        useful = look.useful(self.best.limit)
        if useful is None:
            return []
        horizon, within = self._prepared(look, useful)
        beam = self._walk(horizon, look.width)
        look = replace(look, within=within, bounds=beam.bounds_by_band(), unproven=beam.unproven)
        if look.left >= self.best.limit:
            return []
        wider = min(look.width * _WIDER, (self.budget - self.expansions) // self.graph.num_devices)
        if wider <= look.width or not self.going():
            self.unproven = min(self.unproven, look.left)
            return []
        if not look.shrinks(self.best.limit):
            look = replace(look, width=wider)
            self.held = (look, horizon)
        return [look]

    def _prepared(self, look: Look, useful: Range) -> tuple[Horizon, Range]:
        """A horizon and its range: the one held, or anew; refined for a beam that is wide."""
        if self.held is not None and self.held[0] is look:
            horizon, within = self.held[1], look.within
        else:
            self.held = None  # two of them may be too large
            within = useful
            horizon = horizon_of(self.graph, look.firsts, self.spectrum.bands(within))
        if look.width > _FIRST_WIDTH:
            horizon = refined(self.graph, horizon)
        return horizon, within

    def _walk(self, horizon: Horizon, width: int) -> Beam:
        beam = Beam(
            graph=self.graph, horizon=horizon, best=self.best, width=width, going=self.going
        )
        beam.walk()
        self.expansions += beam.expansions
        return beam


def _left(look: Look) -> float:
    return look.left


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
