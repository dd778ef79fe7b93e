"""What shared memory is worth: seconds of a pipeline per layer that it holds there.

A placement that fits claims no more than there is room for. So with any price ≥ 0

    total ≥ min over pipelines of (total + price · claim) - price · room

which bounds time and memory together (a Lagrange multiplier). A good price is about what it costs
to move a layer from shared memory to the devices that one would rather leave out.
"""

from __future__ import annotations

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.graph import Graph
from edgepipe.core.problem import Floats

_SHARES = (0.25, 0.5, 1.0)
"""Of what a layer takes on the slowest device that a band allows."""


def prices_of(graph: Graph, bands: Bands) -> list[Floats]:
    """Prices to try for a layer of shared memory, in seconds in each band [K]."""
    dearest = np.array([_dearest_s(graph, float(limit)) for limit in bands.limits])
    return [share * dearest for share in _SHARES]


def priced(graph: Graph, prices: Floats) -> Floats:
    """Seconds of stages with what they claim in layers at these prices [D, L, L, K]."""
    total: Floats = graph.stage_s[..., None] + prices * graph.memory.claims[-1, ..., None]
    return total


def _dearest_s(graph: Graph, limit_s: float) -> float:
    """Seconds of a single layer on the slowest device that takes no longer than the limit."""
    single = np.diagonal(graph.stage_s, 1, axis1=1, axis2=2)
    return float(single[np.isfinite(single) & (single <= limit_s)].max(initial=0.0))
