"""Placements that are made at once: something to beat before a search begins.

each device alone, and the fastest two, three … together, fastest first, in proportion to speed
"""

from __future__ import annotations

from collections.abc import Iterator

from edgepipe.core.costs import cost, rank_of
from edgepipe.core.placing import proportional
from edgepipe.core.problem import Placement, Problem
from edgepipe.core.resources import resources_of


def guess(problem: Problem) -> tuple[float, Placement] | None:
    """The best of these that fits, with its rank (`costs.rank_of`); None where none does."""
    placed = [proportional(problem, devices) for devices in _choices(problem)]
    resources = resources_of(problem)
    costs = [(cost(problem, each, resources), each) for each in placed]
    ranked = [(rank_of(problem, costs), each) for costs, each in costs if costs.fits]
    return min(ranked, key=lambda each: each[0], default=None)


def _choices(problem: Problem) -> Iterator[tuple[int, ...]]:
    """Devices in pipeline order, as many as the problem asks for."""
    if problem.order is not None:
        yield problem.order
        return
    seconds = problem.item_s.sum(axis=1)
    fastest = sorted(range(len(seconds)), key=lambda device: float(seconds[device]))
    most = min(len(fastest), problem.num_layers)
    for count in range(1, most + 1) if problem.num_stages is None else (problem.num_stages,):
        yield tuple(fastest[:count])
    if problem.num_stages in {None, 1}:
        yield from ((device,) for device in fastest[1:])
