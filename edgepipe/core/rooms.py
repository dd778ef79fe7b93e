"""What a problem's devices have room for: on their own, together, and in training.

A device that is used alone has its own limit, or its pool's beside the idle workers of the others.
Stages on several devices of a pool share what the pool has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgepipe.core.goal import Train
from edgepipe.core.problem import Bools, Floats, Ints, Problem


def mates_of(problem: Problem, index: int) -> list[int]:
    """The devices of a device's pool, itself among them."""
    device = problem.devices[index]
    key = (device.node, device.pool)
    return [i for i, other in enumerate(problem.devices) if (other.node, other.pool) == key]


def own_bytes(problem: Problem, index: int) -> int:
    """What a device has for its stage while all others are idle."""
    device = problem.devices[index]
    pool_free = _free_bytes(problem, mates_of(problem, index))
    return min(device.memory_limit_bytes - device.baseline_bytes, pool_free)


def least_bytes(problem: Problem) -> Ints:
    """What a stage takes at least: in training with one microbatch in flight [L, L]."""
    if problem.training is None:
        return problem.stage_bytes
    return problem.stage_bytes + problem.training.inflight_bytes


def fitting(problem: Problem) -> Bools:
    """The stages that fit each device while all others are idle [D, L, L]."""
    held = least_bytes(problem)
    fits = np.stack([held <= own_bytes(problem, index) for index in range(len(problem.devices))])
    return fits & ~np.tri(problem.num_layers + 1, dtype=np.bool_)


def shared_rooms(problem: Problem) -> tuple[Floats, Floats]:
    """What stages claim of memory that devices share [C, D, L, L], and how much there is [C].

    One pool each; and where there are several, all pools together, once in bytes and once in
    whole layers of the smallest kind, which tells sooner that a model cannot fit.
    """
    pools = {tuple(mates_of(problem, index)) for index in range(len(problem.devices))}
    shared = sorted(pool for pool in pools if len(pool) > 1)
    free = np.array([_free_bytes(problem, pool) for pool in shared], dtype=np.int64)
    inside = np.zeros((len(shared), len(problem.devices), 1, 1), dtype=np.int64)
    for index, pool in enumerate(shared):
        inside[index, list(pool)] = 1
    held = least_bytes(problem)
    claims, rooms = inside * held, free
    if len(shared) > 1:
        layer = _smallest_layer_bytes(held)
        together = inside.sum(axis=0, keepdims=True)
        claims = np.concatenate([claims, together * held, together * (held // layer)])
        rooms = np.array([*free, free.sum(), (free // layer).sum()])
    most = np.where(fitting(problem), claims, 0).max(axis=(2, 3), initial=0).sum(axis=1)
    binding = most > rooms
    return claims[binding].astype(np.float64), rooms[binding].astype(np.float64)


def _free_bytes(problem: Problem, pool: Sequence[int]) -> int:
    """What a pool has for stages beside the baselines of all its devices."""
    mates = [problem.devices[index] for index in pool]
    largest = max(mate.memory_limit_bytes for mate in mates)
    return largest - sum(mate.baseline_bytes for mate in mates)


def _smallest_layer_bytes(held: Ints) -> int:
    """The least that one more layer adds to a stage; 1 where it may add nothing."""
    added = np.diff(held, axis=1)
    return max(1, int(added[np.triu_indices_from(added, k=1)].min(initial=np.iinfo(np.int64).max)))


def depth_of(problem: Problem) -> Floats | None:
    """How many microbatches a stage may have in flight, the others' memory taken for idle."""
    if problem.training is None:
        return None
    assert isinstance(problem.goal, Train)
    left = np.stack(
        [own_bytes(problem, i) - problem.stage_bytes for i in range(len(problem.devices))]
    )
    each, most = problem.training.inflight_bytes, problem.goal.num_microbatches
    depth = np.where(each > 0, np.clip(left // np.maximum(each, 1), 1, most), most)
    return depth.astype(np.float64)
