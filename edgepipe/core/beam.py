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
from edgepipe.core.duals import shares
from edgepipe.core.going import Going, always
from edgepipe.core.graph import Graph
from edgepipe.core.horizon import Horizon
from edgepipe.core.problem import Bools, Floats, Ints
from edgepipe.core.round_trips import ROUNDING, exchange_s
from edgepipe.core.shared import Shared

_CHUNK_CELLS = 200_000  # of bounds at once: they stay in a core's cache
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
        graph = self.graph
        for device in self.horizon.firsts:
            if np.isfinite(graph.enter_s[device]) and graph.twin[device] < 0:
                yield self._staged(empty(self.graph), device)

    def _extended(self, begun: Begun) -> Iterator[Begun]:
        """All pipelines of one stage more, a chunk at a time."""
        self.expansions += len(begun)
        cells = (self.graph.num_layers + 1) * len(self.horizon.bands.floors)
        size = max(1, _CHUNK_CELLS // cells)
        for start in range(0, len(begun), size):
            if not self.going():
                self.unproven = min(self.unproven, float(begun.bound[start:].min()))
                return
            chunk = begun.at(np.arange(start, min(start + size, len(begun))))
            for device in range(self.graph.num_devices):
                hopped = self._hopped(chunk, device)
                if len(hopped):
                    yield self._staged(hopped, device)

    def _hopped(self, begun: Begun, device: int) -> Begun:
        """Those that may go on to the device, with the hop paid for."""
        graph = self.graph
        begun = begun.at(self._may_hop(begun, device))
        last = begun.path[:, -1, 0]
        loads = begun.loads + graph.hop_loads[last, device]
        busy = np.maximum(graph.hop_peak_s[last, device], loads.max(axis=1, initial=0.0))
        hopped = replace(
            begun,
            total=begun.total + graph.hop_s[last, device],
            peak=np.maximum(begun.peak, busy),
            loads=loads,
        )
        return hopped.at(self._hopped_bounds(hopped, device) < self._limit)

    def _hopped_bounds(self, begun: Begun, device: int) -> Floats:
        """What a whole pipeline costs at least that goes on with a stage on the device [N]."""
        start, free = begun.path[:, -1, 1], self.horizon.free(begun.used | bit_of(device))
        total = (begun.total[:, None] + self.horizon.begun[device, start, :, free]).T
        trip = (begun.total[:, None] + self.horizon.begun_trip[device, start, :, free]).T
        peak = np.maximum(begun.peak, self.horizon.bands.floors[:, None])
        self._wait(begun, _ALL, trip, peak)
        bounds: Floats = (self.graph.goal.rank(total, peak) + begun.update).min(axis=0)
        return bounds

    def _wait(
        self,
        begun: Begun,
        at: Ints | slice,
        trip: Floats,
        peak: Floats,
        depth: Floats | None = None,
    ) -> None:
        """Raise `peak` [..., X] to the period that the stages' round trips need, in training.

        `trip` [..., X] is that of the first stage of those `at` these numbers; `depth` [..., X] is
        that of the stage which is being added, if one is.
        """
        if self.graph.depth is None or not self.graph.goal.weighs_bottleneck:
            return
        for before, held in zip(begun.before.T, begun.depth.T, strict=True):
            np.maximum(peak, (trip - before[at]) / held[at], out=peak)
        if depth is not None:
            np.maximum(peak, (trip - begun.total[at]) / depth, out=peak)

    def _share(self, spans: Spans, peak: Floats) -> None:
        """Raise `peak` [N] of whole pipelines to what shared memory asks for, in training."""
        trip = np.where(np.isfinite(spans.total[-1]), spans.total[-1], 0.0)
        waiting = spans.kept[-1] * trip[:, None] - spans.kept_s[-1]
        left = self.graph.memory.rooms - spans.taken[-1] + spans.kept[-1]
        period = np.divide(waiting, left, out=np.zeros_like(left), where=(left > 0) & (waiting > 0))
        np.maximum(peak, period.max(axis=1, initial=0.0), out=peak)

    def _may_hop(self, begun: Begun, device: int) -> Bools:
        graph, twin = self.graph, int(self.graph.twin[device])
        may = np.isfinite(graph.hop_s[begun.path[:, -1, 0], device])
        may &= (begun.used >> device & 1 == 0) & (begun.bound < self._limit)
        if twin >= 0:
            may &= begun.used >> twin & 1 == 1
        return np.asarray(may)

    def _staged(self, begun: Begun, device: int) -> Begun:
        """Every stage on the device that may follow; whole pipelines go to the best."""
        num_stages = begun.path.shape[1] + 1
        spans = self._spans(begun, device)
        if self.graph.num_stages in {None, num_stages}:
            self._finish(begun, device, spans)
        if self.graph.num_stages == num_stages:
            return begun.at(_NONE)
        used = begun.used | bit_of(device)
        bounds = self._bounds(begun, device, spans, self.horizon.free(used)).min(axis=1)
        end, which = np.nonzero(bounds < self._limit)
        stage = np.stack([np.full_like(end, device), end], axis=1)
        return Begun(
            path=np.concatenate([begun.path[which], stage[:, None]], axis=1),
            used=used[which],
            total=spans.total[end, which],
            peak=spans.peak[end, which],
            loads=begun.loads[which],
            taken=spans.taken[end, which],
            kept=spans.kept[end, which],
            kept_s=spans.kept_s[end, which],
            before=np.concatenate([begun.before[which], begun.total[which, None]], axis=1),
            depth=np.concatenate([begun.depth[which], spans.depth[end, which, None]], axis=1),
            update=spans.update[end, which],
            bound=bounds[end, which],
        )

    def _spans(self, begun: Begun, device: int) -> Spans:
        graph = self.graph
        num_done = begun.path.shape[1]
        start = begun.path[:, -1, 1] if num_done else np.zeros(len(begun), dtype=np.int64)
        seconds = graph.stage_s[device, start].T
        taken = begun.taken + graph.memory.claims[:, device, start].T
        kept = graph.memory.kept[:, device, start].T
        seconds = np.where((taken > graph.memory.rooms).any(axis=2), np.inf, seconds)
        return Spans(
            total=begun.total + seconds,
            peak=np.maximum(begun.peak, np.where(np.isfinite(seconds), seconds, 0.0)),
            taken=taken,
            kept=begun.kept + kept,
            kept_s=begun.kept_s + kept * begun.total[:, None],
            depth=np.ones_like(seconds) if graph.depth is None else graph.depth[device, start].T,
            update=np.maximum(begun.update, graph.update_s[device, start].T),
        )

    def _finish(self, begun: Begun, device: int, spans: Spans) -> None:
        """Offer the pipelines whose last stage ends with the last layer."""
        graph = self.graph
        first = begun.path[:, 0, 0] if begun.path.shape[1] else np.full(len(begun), device)
        loads = begun.loads + graph.back_loads[device, first]
        busy = np.maximum(graph.back_peak_s[device, first], loads.max(axis=1, initial=0.0))
        peak = np.maximum(spans.peak[-1], busy)
        self._wait(begun, _ALL, spans.total[-1], peak, spans.depth[-1])
        self._share(spans, peak)
        total = spans.total[-1] + graph.back_s[device, first]
        rank = graph.goal.rank(total, peak) + spans.update[-1]
        for index in np.argsort(rank):
            if not rank[index] < self._limit:
                break
            self.best.offer(placement_of(begun.path[index], device, graph.num_layers))

    def bounds_by_band(self, firsts: Sequence[int] = ()) -> Floats:
        """What any pipeline of two stages or more costs at least, for each band [K].

        Of those that begin on one of `firsts`, where some are given.
        """
        bounds = np.full(len(self.horizon.bands.floors), np.inf)
        for device in firsts or self.horizon.firsts:
            begun = empty(self.graph)
            free = self.horizon.free(begun.used | bit_of(device))
            found = self._bounds(begun, device, self._spans(begun, device), free)
            np.minimum(bounds, found.min(axis=(0, 2)), out=bounds)
        return bounds

    def _bounds(self, begun: Begun, device: int, spans: Spans, free: Ints) -> Floats:
        """What a pipeline costs at least that goes on after each end, by band [L - 1, K, N]."""
        horizon, goal = self.horizon, self.graph.goal
        total = spans.total[:-1, None] + horizon.total[device, :-1][..., free]
        peak = np.maximum(spans.peak[:-1, None], horizon.bands.floors[:, None])
        for table, resource in zip(horizon.loads, horizon.load_ids, strict=True):
            loads = begun.loads[:, resource] + table[device, :-1][..., free]
            np.maximum(peak, loads, out=peak)
        bounds: Floats = goal.rank(total, peak) + spans.update[:-1, None]
        end, band, at = cells = np.nonzero(bounds < self._limit)
        place = (device, end, band, free[at])
        total, peak = total[cells], peak[cells]
        if horizon.dual is not None:
            used = begun.used[at] | bit_of(device)
            left = shares(self.graph, self.graph.memory.rooms - spans.taken[end, at])
            rest = horizon.dual.bounds(used, left, (end, device, band))
            np.maximum(total, spans.total[end, at] + rest, out=total)
        trip = spans.total[end, at] + horizon.trip[place]
        if len(self.graph.memory.rooms):
            shared = Shared.of(self.graph, horizon, spans, cells, place=place)
            total = shared.total(total)
            np.maximum(trip, total - exchange_s(self.graph, horizon.firsts), out=trip)
        self._wait(begun, at, trip, peak, spans.depth[end, at])
        if len(self.graph.memory.rooms):
            shared.wait(trip, peak)
        bounds[cells] = goal.rank(total, peak) + spans.update[end, at]
        return bounds

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
