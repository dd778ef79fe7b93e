"""Pipelines begun from the first stage on, the most promising ones carried further.

    begun pipelines of p stages ──every next stage──▶ of p + 1 stages ──bound──▶ the best `width`

A begun pipeline's bound is its own cost so far with the horizon's least cost to go. One whose
bound is no better than the worst placement worth keeping is given up for good; one beyond the
width is given up too, and the least bound of these is what remains unproven.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepipe.core.begun import Begun, Spans, bit_of, empty, joined, placement_of
from edgepipe.core.best import Best
from edgepipe.core.going import Going, always
from edgepipe.core.graph import Graph
from edgepipe.core.horizon import Horizon
from edgepipe.core.onward import Onward, wait
from edgepipe.core.problem import Bools, Floats, Ints
from edgepipe.core.round_trips import ROUNDING

_CHUNK_CELLS = 120_000  # of stages at once: what is computed of them stays in a core's cache
_SPARE = 4
_NONE = np.zeros(0, dtype=np.int64)
_ALL = slice(None)


@dataclass(slots=True, kw_only=True)
class Beam:
    """One walk through all pipelines that begin on one of the horizon's first devices.

    Afterwards `unproven` is a bound of what was given up for want of width, or of time once it is
    not `going` on, and `expansions` counts the begun pipelines that were extended.
    """

    graph: Graph
    horizon: Horizon
    best: Best
    width: int
    going: Going = always
    unproven: float = np.inf
    expansions: int = 0

    def walk(self) -> None:
        """Extend stage by stage until every pipeline is whole or given up."""
        begun = self._kept(self._entered())
        while len(begun):
            begun = self._kept(self._extended(begun))

    @property
    def _limit(self) -> float:
        return self.best.limit * (1 - ROUNDING)

    def _entered(self) -> Iterator[Begun]:
        """Pipelines of one stage."""
        firsts = np.array(self.horizon.firsts)
        may = np.isfinite(self.graph.enter_s[firsts]) & (self.graph.twin[firsts] < 0)
        yield self._staged(self._unbegun(firsts[may]), firsts[may])

    def _unbegun(self, firsts: Ints) -> Begun:
        return empty(self.graph).at(np.zeros_like(firsts))

    def _extended(self, begun: Begun) -> Iterator[Begun]:
        """All pipelines of one stage more, a chunk at a time."""
        self.expansions += len(begun)
        cells = (self.graph.num_layers + 1) * self.graph.num_devices
        size = max(1, _CHUNK_CELLS // cells)
        for start in range(0, len(begun), size):
            if not self.going():
                self.unproven = min(self.unproven, float(begun.bound[start:].min()))
                return
            yield self._staged(*self._hopped(begun.at(slice(start, start + size))))

    def _hopped(self, begun: Begun) -> tuple[Begun, Ints]:
        """Those that go on to a device, with the hop paid for, and the devices [N]."""
        graph = self.graph
        which, device = np.nonzero(self._may_hop(begun))
        begun = begun.at(which)
        last = begun.path[:, -1, 0]
        loads = begun.loads + graph.hop_loads[last, device]
        busy = np.maximum(graph.hop_peak_s[last, device], loads.max(axis=1, initial=0.0))
        hopped = replace(
            begun,
            total=begun.total + graph.hop_s[last, device],
            peak=np.maximum(begun.peak, busy),
            loads=loads,
        )
        below = self._hopped_bounds(hopped, device) < self._limit
        return hopped.at(below), device[below]

    def _hopped_bounds(self, begun: Begun, device: Ints) -> Floats:
        """What a whole pipeline costs at least that goes on with a stage on the device [N]."""
        place = device, begun.start, _ALL, self.horizon.free(begun.used | bit_of(device))
        total = (begun.total[:, None] + self.horizon.begun[place]).T
        trip = (begun.total[:, None] + self.horizon.begun_trip[place]).T
        peak = np.maximum(begun.peak, self.horizon.bands.floors[:, None])
        wait(self.graph, begun, _ALL, trip, peak)
        bounds: Floats = (self.graph.goal.rank(total, peak) + begun.update).min(axis=0)
        return bounds

    def _share(self, spans: Spans, peak: Floats) -> None:
        """Raise `peak` [N] of whole pipelines to what shared memory asks for, in training."""
        waiting = spans.kept * spans.total[:, None] - spans.kept_s
        left = self.graph.memory.rooms - spans.taken + spans.kept
        period = np.divide(waiting, left, out=np.zeros_like(left), where=(left > 0) & (waiting > 0))
        np.maximum(peak, period.max(axis=1, initial=0.0), out=peak)

    def _may_hop(self, begun: Begun) -> Bools:
        """Whether each pipeline may go on to each device [N, D]."""
        graph = self.graph
        unused = begun.used[:, None] >> np.arange(graph.num_devices) & 1 == 0
        may: Bools = unused & np.isfinite(graph.hop_s[begun.path[:, -1, 0]])
        twins = np.flatnonzero(graph.twin >= 0)
        may[:, twins] &= ~unused[:, graph.twin[twins]]
        may &= (begun.bound < self._limit)[:, None]
        return may

    def _staged(self, begun: Begun, device: Ints) -> Begun:
        """Every stage that may follow on the devices [N]; whole pipelines go to the best."""
        num_stages = begun.path.shape[1] + 1
        if self.graph.num_stages in {None, num_stages}:
            self._finish(begun, device)
        if self.graph.num_stages == num_stages:
            return begun.at(_NONE)
        spans = self._followed(begun, device)
        cells, bounds = self._onward(begun, device, spans).bounds()
        begins = np.flatnonzero(np.diff(cells.span, prepend=-1))  # a span's bands are neighbours
        span = cells.span[begins]
        which, end = spans.at[span], spans.end[span]
        stage = np.stack([device[which], end], axis=1)
        return Begun(
            path=np.concatenate([begun.path[which], stage[:, None]], axis=1),
            used=begun.used[which] | bit_of(device[which]),
            total=spans.total[span],
            peak=spans.peak[span],
            loads=begun.loads[which],
            taken=spans.taken[span],
            kept=spans.kept[span],
            kept_s=spans.kept_s[span],
            before=np.concatenate([begun.before[which], begun.total[which, None]], axis=1),
            depth=np.concatenate([begun.depth[which], spans.depth[span, None]], axis=1),
            update=spans.update[span],
            bound=np.minimum.reduceat(bounds, begins) if len(span) else bounds,
        )

    def _followed(self, begun: Begun, device: Ints) -> Spans:
        """With every further stage that leaves layers and is in some band."""
        at, end = np.nonzero(self.horizon.steps.any_stages[device, begun.start, :-1])
        return self._spans(begun, device, at, end)

    def _spans(self, begun: Begun, device: Ints, at: Ints, end: Ints) -> Spans:
        """Those `at` these numbers with a stage that ends there, as far as they fit."""
        graph = self.graph
        stage = device[at], begun.start[at], end
        taken = begun.taken[at] + graph.memory.claims[:, *stage].T
        fits = np.isfinite(graph.stage_s[stage]) & (taken <= graph.memory.rooms).all(axis=1)
        at, end, taken = at[fits], end[fits], taken[fits]
        stage = device[at], begun.start[at], end
        seconds, before = graph.stage_s[stage], begun.total[at]
        kept = graph.memory.kept[:, *stage].T
        return Spans(
            at=at,
            end=end,
            total=before + seconds,
            peak=np.maximum(begun.peak[at], seconds),
            taken=taken,
            kept=begun.kept[at] + kept,
            kept_s=begun.kept_s[at] + kept * before[:, None],
            depth=np.ones_like(seconds) if graph.depth is None else graph.depth[stage],
            update=np.maximum(begun.update[at], graph.update_s[stage]),
        )

    def _finish(self, begun: Begun, device: Ints) -> None:
        """Offer the pipelines whose last stage ends with the last layer."""
        graph, each = self.graph, np.arange(len(begun))
        spans = self._spans(begun, device, each, np.full_like(each, graph.num_layers))
        begun, device = begun.at(spans.at), device[spans.at]
        first = begun.path[:, 0, 0] if begun.path.shape[1] else device
        loads = begun.loads + graph.back_loads[device, first]
        busy = np.maximum(graph.back_peak_s[device, first], loads.max(axis=1, initial=0.0))
        peak = np.maximum(spans.peak, busy)
        wait(graph, begun, _ALL, spans.total, peak, depth=spans.depth)
        self._share(spans, peak)
        total = spans.total + graph.back_s[device, first]
        rank = graph.goal.rank(total, peak) + spans.update
        for index in np.argsort(rank):
            if not rank[index] < self._limit:
                break
            last = int(device[index])
            self.best.offer(placement_of(begun.path[index], last, graph.num_layers))

    def bounds_by_band(self, firsts: Sequence[int] = ()) -> Floats:
        """What any pipeline of two stages or more costs at least, for each band [K].

        Of those that begin on one of `firsts`, where some are given; infinite where none may be
        below the limit.
        """
        bounds = np.full(len(self.horizon.bands.floors), np.inf)
        device = np.array(firsts or self.horizon.firsts)
        begun = self._unbegun(device)
        cells, found = self._onward(begun, device, self._followed(begun, device)).bounds()
        np.minimum.at(bounds, cells.band, found)
        return bounds

    def _onward(self, begun: Begun, device: Ints, spans: Spans) -> Onward:
        return Onward(
            graph=self.graph,
            horizon=self.horizon,
            begun=begun,
            device=device,
            spans=spans,
            limit=self._limit,
        )

    def _kept(self, parts: Iterable[Begun]) -> Begun:
        """The most promising ones; what is given up for want of width is noted."""
        kept: list[Begun] = []
        for part in parts:
            kept.append(part)
            if sum(map(len, kept)) > _SPARE * self.width:
                kept = [self._narrowed(joined(kept))]
        return self._narrowed(joined(kept)) if kept else empty(self.graph).at(_NONE)

    def _narrowed(self, begun: Begun) -> Begun:
        begun = begun.at(begun.bound < self._limit)
        if len(begun) <= self.width:
            return begun
        order = np.argpartition(begun.bound, self.width)
        self.unproven = min(self.unproven, float(begun.bound[order[self.width]]))
        return begun.at(order[: self.width])
