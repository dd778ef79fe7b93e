"""Placements by rule: equal, by hand, and in proportion to speed.

proportional, two devices of which the second is twice as fast:
    layers   |  1/3 of the work  |            2/3 of the work             |
A stage that its device cannot hold gives layers to the others, in proportion again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from edgepipe.core.problem import Bools, Floats, Placement, Problem, Stage
from edgepipe.core.split import LayerRange


def ranged(ranges: Sequence[LayerRange], devices: Sequence[int]) -> Placement:
    """Layer ranges on devices, in order."""
    return tuple(
        Stage(device=device, first=first, end=end)
        for device, (first, end) in zip(devices, ranges, strict=True)
    )


def proportional(problem: Problem, devices: Sequence[int]) -> Placement:
    """Layers in proportion to measured speed on all these devices, in order.

    The cuts are where each device's share of all items' time ends, or the nearest that leave every
    device what its memory holds; where memory cannot hold the model, speed alone decides.
    """
    held = [_held(problem, device) for device in devices]
    whole = _held_from(held)
    if not whole[0][0]:
        held = [np.triu(np.ones_like(each), k=1) for each in held]
        whole = _held_from(held)
    stages: list[Stage] = []
    for at, device in enumerate(devices):
        first = stages[-1].end if stages else 0
        ends = np.flatnonzero(held[at][first] & whole[at + 1])
        wanted = _wanted_end(problem, devices[at:], first)
        end = int(ends[np.abs(ends - wanted).argmin()])
        stages.append(Stage(device=device, first=first, end=end))
    return tuple(stages)


def roomiest(problem: Problem, devices: Sequence[int]) -> Placement:
    """Layers in proportion to usable memory: what lacks least where nothing fits."""
    room = [
        problem.devices[index].memory_limit_bytes - problem.devices[index].baseline_bytes
        for index in devices
    ]
    shares = np.cumsum([max(1, size) for size in room])
    num, ends = problem.num_layers, [0]
    for left, share in zip(range(len(devices) - 1, -1, -1), shares, strict=True):
        ends.append(min(max(round(num * share / shares[-1]), ends[-1] + 1), num - left))
    return ranged(list(pairwise(ends)), devices)


def _held(problem: Problem, device: int) -> Bools:
    """The device's own memory holds layers [first, end) [L, L]; in training one microbatch too."""
    where = problem.devices[device]
    taken = problem.stage_bytes
    if problem.training is not None:
        taken = taken + problem.training.inflight_bytes
    fits: Bools = taken <= where.memory_limit_bytes - where.baseline_bytes
    return np.triu(fits, k=1)


def _held_from(held: Sequence[Bools]) -> list[Bools]:
    """The layers from which a device and those after it hold the rest [L]; and none, at the end."""
    nothing: Bools = np.arange(len(held[0])) == len(held[0]) - 1
    whole = [nothing]
    for fits in reversed(held):
        rest: Bools = np.any(fits & whole[-1], axis=1)
        whole.append(rest)
    return whole[::-1]


def _wanted_end(problem: Problem, devices: Sequence[int], first: int) -> int:
    """Where the first of these devices has done its share of what is left from `first` on."""
    num = problem.num_layers
    left = _work(problem)[first + 1 if first else 0 :]
    speeds = [1 / max(problem.item_s[device].sum(), 1e-12) for device in devices]
    share = left.sum() * speeds[0] / sum(speeds)
    begin = first + 1 if first else 0
    done = np.cumsum(left)
    items = int(np.abs(done - share).argmin()) + 1
    return min(num, max(first + 1, begin + items - 1))


def _work(problem: Problem) -> Floats:
    """What each item is worth of the whole model's time, on average over devices [I]."""
    shares: Floats = problem.item_s / np.maximum(problem.item_s.sum(axis=1, keepdims=True), 1e-12)
    mean: Floats = shares.mean(axis=0)
    return mean
