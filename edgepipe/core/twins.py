"""Devices that are alike: swapping two of them changes no placement's cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepipe.core.problem import Floats, Ints, Problem
from edgepipe.core.rooms import mates_of


def twins_of(problem: Problem, own: Sequence[Floats], between: Sequence[Floats]) -> Ints:
    """For each device the last one before it that is its equal in every cost, else -1 [D].

    `own` are arrays by device [D, ...], `between` by two devices [D, D].
    """
    num = len(problem.devices)
    twin = np.full(num, -1, dtype=np.int64)
    for later in range(num):
        for earlier in range(later):
            if _placed_alike(problem, earlier, later) and _cost_alike(own, between, earlier, later):
                twin[later] = earlier
    return twin


def _cost_alike(own: Sequence[Floats], between: Sequence[Floats], a: int, b: int) -> bool:
    swap = np.arange(len(own[0]))
    swap[[a, b]] = b, a
    return all(np.array_equal(array[a], array[b]) for array in own) and all(
        np.array_equal(array[np.ix_(swap, swap)], array) for array in between
    )


def _placed_alike(problem: Problem, a: int, b: int) -> bool:
    return _both_alone(problem, a, b) or _together(problem, a, b)


def _both_alone(problem: Problem, a: int, b: int) -> bool:
    """Each is its host's only device, behind NICs that are equal."""
    first, second = (problem.nics.get(problem.devices[index].host) for index in (a, b))
    return _alone(problem, a) and _alone(problem, b) and first == second


def _alone(problem: Problem, index: int) -> bool:
    """It shares neither a host nor a pool with any other device."""
    host = problem.devices[index].host
    hosts = [device.host for device in problem.devices]
    return hosts.count(host) == 1 and len(mates_of(problem, index)) == 1


def _together(problem: Problem, a: int, b: int) -> bool:
    """They share their host, and their pool or none."""
    first, second = problem.devices[a], problem.devices[b]
    return first.host == second.host and (
        (first.node, first.pool) == (second.node, second.pool)
        or len(mates_of(problem, a)) == len(mates_of(problem, b)) == 1
    )
