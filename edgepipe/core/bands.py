"""What the bottleneck may be, cut into bands.

    values   0.1  0.2  0.25  0.3  0.5  0.7  0.9      seconds of every stage and boundary, rising
    bands   |  floor ─ threshold  |    …    |

A pipeline belongs to the band of its busiest stage, single boundary, or stage between two of them.
What more of them share may be busier still, which only makes it worse.
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
    """Ranges of the bottleneck [K]: above the threshold before, up to its own.

    No bottleneck in a band is below its floor.
    """

    thresholds: Floats
    floors: Floats


class Range(NamedTuple):
    """The values [low, high) of a spectrum, by their places."""

    low: int
    high: int

    @property
    def size(self) -> int:
        """How many."""
        return self.high - self.low

    def edges(self) -> Ints:
        """Where its bands begin and end, about equally many values in each."""
        num = min(NUM_BANDS, self.size)
        return np.linspace(self.low, self.high, num + 1).round().astype(np.int64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """All values that a bottleneck may have, rising, and the least it may be at each."""

    values: Floats
    floors: Floats

    @classmethod
    def of(cls, graph: Graph) -> Spectrum:
        """The spectrum of a graph; of one value where the bottleneck is all the same.

        In training a round trip may set the period, to a value between those of the stages.
        """
        if not graph.goal.weighs_bottleneck:
            return cls(values=np.array([np.inf]), floors=np.zeros(1))
        stages = graph.stage_s[np.isfinite(graph.stage_s)]
        hops = graph.hop_peak_s[np.isfinite(graph.hop_s)]
        backs = graph.back_peak_s[np.isfinite(graph.back_s)]
        values = np.unique(np.concatenate([stages, hops, backs, graph.middle_peak_s]))
        if graph.depth is None:
            return cls(values=values, floors=values)
        return cls(values=np.append(values, np.inf), floors=np.append(0.0, values))

    def bands(self, within: Range) -> Bands:
        """The bands of a range."""
        edges = within.edges()
        return Bands(thresholds=self.values[edges[1:] - 1], floors=self.floors[edges[:-1]])
