"""What begun pipelines cost at least that go on with a further stage."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from edgepipe.core.begun import Begun, Spans, bit_of
from edgepipe.core.duals import Dual, shares
from edgepipe.core.graph import Graph
from edgepipe.core.horizon import Horizon
from edgepipe.core.problem import Bools, Floats, Ints
from edgepipe.core.round_trips import WHOLE, exchange_s


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cells:
    """Pipelines [X] by the number of their span, each in a band.

    `place` is where the horizon's tables have them, all axes in one. Whole pipelines have a `total`
    and a `peak` that are no less.
    """

    span: Ints
    band: Ints
    place: Ints
    total: Floats
    peak: Floats

    def of(self, which: Bools) -> Cells:
        """Some of them."""
        return Cells(**{one.name: getattr(self, one.name)[which] for one in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Onward:
    """Begun pipelines [N] that go on with a stage, each on its `device` [N]: their `spans`.

    What is cheaply told comes first: only what may still be below the limit is bounded further.
    """

    graph: Graph
    horizon: Horizon
    begun: Begun
    device: Ints
    spans: Spans
    limit: float

    def bounds(self) -> tuple[Cells, Floats]:
        """Those that may be below the limit [X], span by span; and their bounds."""
        cells, bounds = self._below(self._timed())
        if self.horizon.dual is not None:
            cells, bounds = self._below(self._unused(cells, self.horizon.dual))
        if len(self.graph.memory.rooms):
            cells, bounds = self._below(self._fitting(cells))
        if self.graph.depth is not None and self.graph.goal.weighs_bottleneck:
            cells, bounds = self._below(self._waiting(cells))
        return cells, bounds

    def _below(self, cells: Cells) -> tuple[Cells, Floats]:
        bounds = self.graph.goal.rank(cells.total, cells.peak) + self.spans.update[cells.span]
        below = bounds < self.limit
        return cells.of(below), bounds[below]

    @property
    def _used(self) -> Ints:
        return (self.begun.used | bit_of(self.device))[self.spans.at]

    def _timed(self) -> Cells:
        """All that the bands allow, with time and shared resources."""
        horizon, spans, device = self.horizon, self.spans, self.device[self.spans.at]
        span, band = np.nonzero(horizon.steps.stages[device, self.begun.start[spans.at], spans.end])
        _, num_places, num_bands, num_sets = horizon.total.shape
        begins = (device * num_places + spans.end) * (num_bands * num_sets)
        place = (begins + horizon.free(self._used))[span] + band * num_sets
        peak = np.maximum(spans.peak[span], horizon.bands.floors[band])
        for table, resource in zip(horizon.loads, horizon.load_ids, strict=True):
            loads = self.begun.loads[spans.at, resource][span] + table.take(place)
            np.maximum(peak, loads, out=peak)
        total = spans.total[span] + horizon.total.take(place)
        return Cells(span=span, band=band, place=place, total=total, peak=peak)

    def _unused(self, cells: Cells, dual: Dual) -> Cells:
        """With prices on the devices and the room that are left."""
        spans = self.spans
        left = shares(self.graph, self.graph.memory.rooms - spans.taken)
        place = spans.end[cells.span], self.device[spans.at[cells.span]], cells.band
        rest = dual.bounds(self._used, left, cells.span, place)
        return replace(cells, total=np.maximum(cells.total, spans.total[cells.span] + rest))

    def _left(self, cells: Cells) -> Floats:
        """What their stages and the rest of a pipeline leave of the rooms at most [X, C]."""
        left = (self.graph.memory.rooms - self.spans.taken)[cells.span]
        for room, table in enumerate(self.horizon.claims):
            left[:, room] -= table.take(cells.place)
        return left

    def _fitting(self, cells: Cells) -> Cells:
        """With what shared memory has room for, at some prices."""
        fits: Bools = np.all(self._left(cells) >= 0, axis=1)
        cells = cells.of(fits)
        last = (self.graph.memory.rooms[-1] - self.spans.taken[:, -1])[cells.span]
        total, done = cells.total, self.spans.total[cells.span]
        for each in self.horizon.priced:
            priced = each.total.take(cells.place) - each.prices[cells.band] * last
            total = np.maximum(total, done + priced)
        return replace(cells, total=total)

    def _waiting(self, cells: Cells) -> Cells:
        """With the period that round trips need, of each stage and in shared memory."""
        trip = np.maximum(
            self.spans.total[cells.span] + self.horizon.trip.take(cells.place),
            cells.total - exchange_s(self.graph, self.horizon.firsts),
        )
        ends = np.isfinite(trip)
        cells, trip = cells.of(ends), trip[ends]
        peak, at = cells.peak.copy(), self.spans.at[cells.span]
        wait(self.graph, self.begun, at, trip, peak, depth=self.spans.depth[cells.span])
        if len(self.graph.memory.rooms):
            np.maximum(peak, self._shared_s(cells, trip), out=peak)
        return replace(cells, peak=peak)

    def _shared_s(self, cells: Cells, trip: Floats) -> Floats:
        """The period [X] that the microbatches in flight in shared memory need.

        Of a round trip `trip` [X] each stage keeps one microbatch per period, so a room has
        Σ kept · (trip - before) / period. Infinite where that period is not of the band.
        """
        kept = self.spans.kept[cells.span]
        waiting = kept * trip[:, None] - self.spans.kept_s[cells.span]
        room = np.maximum(self._left(cells) + kept, 0.0)
        period: Floats = np.divide(waiting, room, out=np.zeros_like(room), where=room > 0).max(
            axis=1
        )
        period[period > self.horizon.bands.thresholds[cells.band] * (1 + WHOLE)] = np.inf
        return period


def wait(
    graph: Graph,
    begun: Begun,
    at: Ints | slice,
    trip: Floats,
    peak: Floats,
    *,
    depth: Floats | None = None,
) -> None:
    """Raise `peak` [..., X] to the period that the stages' round trips need, in training.

    `trip` [..., X] is that of the first stage of those `at` these numbers; `depth` [..., X] is
    that of the stage which is being added, if one is.
    """
    if graph.depth is None or not graph.goal.weighs_bottleneck:
        return
    for before, held in zip(begun.before.T, begun.depth.T, strict=True):
        np.maximum(peak, (trip - before[at]) / held[at], out=peak)
    if depth is not None:
        np.maximum(peak, (trip - begun.total[at]) / depth, out=peak)
