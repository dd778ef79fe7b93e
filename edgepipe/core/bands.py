"""What the bottleneck may be, cut into bands.

    values   0.1  0.2  0.25  0.3  0.5  0.7  0.9      seconds of every stage and boundary, rising
    bands   |  floor ─ threshold  |    …    |

A pipeline belongs to the band of its busiest stage, single boundary, or stage between two of them.
What more of them share may be busier still, which only makes it worse. In training it belongs to
the band of its period.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgepipe.core.graph import Graph
from edgepipe.core.problem import Floats, Ints

NUM_BANDS = 12


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bands:
    """Ranges of the bottleneck [K]: from its floor up to its threshold.

    No stage or boundary of a pipeline in a band takes longer than the band's limit.
    """

    thresholds: Floats
    floors: Floats
    limits: Floats


class Range(NamedTuple):
    """The values [low, high) of a spectrum, by their places."""

    low: int
    high: int

    @property
    def size(self) -> int:
        """How many."""
        return self.high - self.low

    def edges(self, num_bands: int) -> Ints:
        """Where so many bands begin and end, about equally many values in each; at least one."""
        num = min(num_bands, self.size)
        return np.linspace(self.low, self.high, num + 1).round().astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """All values that a bottleneck may have, rising: as in `Bands`, each for itself."""

    values: Floats
    floors: Floats
    limits: Floats

    @classmethod
    def of(cls, graph: Graph) -> Spectrum:
        """The spectrum of a graph; of one value where the bottleneck is all the same.

        In training a round trip may set the period, to what is between two values of stages; then
        no stage takes longer than the lower one.
        """
        if not graph.goal.weighs_bottleneck:
            anything = np.array([np.inf])
            return cls(values=anything, floors=np.zeros(1), limits=anything)
        stages = graph.stage_s[np.isfinite(graph.stage_s)]
        hops = graph.hop_peak_s[np.isfinite(graph.hop_s)]
        backs = graph.back_peak_s[np.isfinite(graph.back_s)]
        values = np.unique(np.concatenate([stages, hops, backs, graph.middle_peak_s]))
        if graph.depth is None:
            return cls(values=values, floors=values, limits=values)
        twice = np.repeat(values, 2)
        return cls(values=np.append(twice[1:], np.inf), floors=twice, limits=twice)

    def bands(self, within: Range, num_bands: int = NUM_BANDS) -> Bands:
        """A range in so many bands, fewer where it has fewer values."""
        edges = within.edges(num_bands)
        last = edges[1:] - 1
        return Bands(
            thresholds=self.values[last], floors=self.floors[edges[:-1]], limits=self.limits[last]
        )
