"""What the microbatches in flight during a round trip ask for, in the bands of a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.graph import Graph
from edgepipe.core.problem import Floats

ROUNDING = 1e-12  # sums in another order may differ by so much; relative
WHOLE = 1e-9  # so much above a whole number of periods is still that, as in costs; relative


def longest_s(graph: Graph, bands: Bands, firsts: Sequence[int] = ()) -> Floats | None:
    """What a round trip from a stage on may take at most in training [D, L, L, K].

    With K microbatches in flight it is no longer than K periods. With the way back to one of
    `firsts`, which is no part of a round trip, so much more.
    """
    if graph.depth is None:
        return None
    longest: Floats = graph.depth[..., None] * bands.thresholds * (1 + ROUNDING)
    return longest + exchange_s(graph, firsts)


def claims_of(graph: Graph, bands: Bands, trip: Floats) -> Floats:
    """What stages claim at least of shared memory in each band [C, D, L, L, K].

    A round trip from a stage on needs as many microbatches in flight there as it takes periods,
    which are no longer than the band's threshold.
    """
    memory = graph.memory
    claims = memory.claims[..., None]
    if not memory.kept.any():
        return np.broadcast_to(claims, (*memory.claims.shape, len(bands.thresholds)))
    trips = graph.stage_s[..., None] + trip.min(axis=-1)[:, None]
    periods = np.divide(
        np.where(np.isfinite(trips), trips, 0.0),
        bands.thresholds,
        out=np.zeros_like(trips),
        where=bands.thresholds > 0,
    )
    more = np.maximum(np.ceil(periods * (1 - WHOLE)) - 1, 0.0)
    claimed: Floats = memory.kept[..., None] * more
    claimed += claims
    return claimed


def exchange_s(graph: Graph, firsts: Sequence[int]) -> float:
    """The most that the way back to one of these devices may take."""
    back = graph.back_s[:, firsts]
    return float(back[np.isfinite(back)].max(initial=0.0))
