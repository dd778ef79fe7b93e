"""What is known of the pipelines that begin on some first devices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.bands import Range
from edgepipe.core.problem import Floats

_SHRUNK = 0.75


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """Pipelines that begin on `firsts`: a bound for each band of `within`.

    A beam of `width` comes next; the ones before it have left nothing open below `left`.
    """

    firsts: tuple[int, ...]
    within: Range
    bounds: Floats
    width: int
    unproven: float = -np.inf

    @property
    def left(self) -> float:
        """No pipeline of two stages or more that is not yet found ranks below it."""
        return max(self.unproven, float(self.bounds.min()))

    def useful(self, limit: float) -> Range | None:
        """The range of the bands that may hold something better than the limit."""
        bands = np.flatnonzero(self.bounds < limit)
        if not bands.size:
            return None
        edges = self.within.edges(len(self.bounds))
        return Range(int(edges[bands[0]]), int(edges[bands[-1] + 1]))

    def shrinks(self, limit: float) -> bool:
        """The bands could be cut finer, in a range that is worth it."""
        useful = self.useful(limit)
        finer = self.within.size > len(self.bounds)
        return useful is None or (finer and useful.size <= _SHRUNK * self.within.size)
