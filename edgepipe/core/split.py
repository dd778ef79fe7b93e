"""Cutting a model's layers into contiguous ranges, one per stage.

--split 10,20 of 30 layers    [0, 10) [10, 20) [20, 30)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from edgepipe.errors import PlanError, SplitError

LayerRange = tuple[int, int]
"""Layers [first, end)."""


def equal_split(num_layers: int, num_stages: int) -> tuple[LayerRange, ...]:
    """Ranges that differ by at most one layer, the longer ones first.

    Raises PlanError where a stage would get no layer.
    """
    if not 0 < num_stages <= num_layers:
        raise PlanError(
            f"{num_stages} stages cannot share {num_layers} layers: ask for 1 to {num_layers}"
        )
    size, longer = divmod(num_layers, num_stages)
    cuts = [stage * size + min(stage, longer) for stage in range(num_stages + 1)]
    return tuple(pairwise(cuts))


def manual_split(num_layers: int, cuts: Sequence[int]) -> tuple[LayerRange, ...]:
    """Ranges that begin at 0 and at each cut.

    Raises SplitError where the cuts do not rise strictly inside (0, num_layers).
    """
    for cut in cuts:
        if not 0 < cut < num_layers:
            where = f"between 1 and {num_layers - 1}" if num_layers > 1 else "nowhere"
            raise SplitError(
                f"the split names layer {cut}: a model of {num_layers} layers can be cut {where}"
            )
    for before, after in pairwise(cuts):
        if after <= before:
            raise SplitError(f"the split must rise: {after} stands after {before}")
    return tuple(pairwise((0, *cuts, num_layers)))
