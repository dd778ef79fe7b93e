"""What memory that devices share allows begun pipelines, over what their stages take one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.begun import Spans
from edgepipe.core.graph import Graph
from edgepipe.core.horizon import Horizon
from edgepipe.core.problem import Floats, Ints
from edgepipe.core.round_trips import WHOLE


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shared:
    """Shared memory of some begun pipelines [X], each in one band.

    `left` [X, C] is what their stages and the rest of a pipeline leave of the rooms at most;
    `kept` and `kept_s` [X, C] as in `Begun`. `threshold` [X] is the band's.
    `priced` [P, X] are whole pipelines' seconds with what they claim, at prices [P, X].
    """

    left: Floats
    kept: Floats
    kept_s: Floats
    threshold: Floats
    priced: Floats

    @classmethod
    def of(
        cls,
        graph: Graph,
        horizon: Horizon,
        spans: Spans,
        cells: tuple[Ints, ...],
        *,
        place: tuple[int, Ints, Ints, Ints],
    ) -> Shared:
        """Of those whose ends, bands and numbers are `cells`; their `place` is in the tables."""
        end, band, at = cells
        rooms, taken = graph.memory.rooms, spans.taken[end, at]
        claims = np.stack([table[place] for table in horizon.claims], axis=1)
        done = spans.total[end, at]
        priced = [
            done + each.total[place] - each.prices[band] * (rooms[-1] - taken[:, -1])
            for each in horizon.priced
        ]
        return cls(
            left=rooms - taken - claims,
            kept=spans.kept[end, at],
            kept_s=spans.kept_s[end, at],
            threshold=horizon.bands.thresholds[band],
            priced=np.stack(priced) if priced else np.zeros((0, len(end))),
        )

    def total(self, total: Floats) -> Floats:
        """Raise whole pipelines' seconds [X]; infinite where the rest does not fit."""
        raised = np.maximum(total, self.priced.max(axis=0, initial=0.0))
        return np.where((self.left < 0).any(axis=1), np.inf, raised)

    def wait(self, trip: Floats, peak: Floats) -> None:
        """Raise the period [X] to what the round trips' microbatches in flight need.

        Of a round trip `trip` [X] each stage keeps one microbatch per period, so a room has
        Σ kept · (trip - before) / period. Infinite where that period is not of the band.
        """
        trip = np.where(np.isfinite(trip), trip, 0.0)
        waiting = self.kept * trip[:, None] - self.kept_s
        room = np.maximum(self.left + self.kept, 0.0)
        period = np.divide(waiting, room, out=np.zeros_like(room), where=room > 0).max(axis=1)
        period[period > self.threshold * (1 + WHOLE)] = np.inf
        np.maximum(peak, period, out=peak)
