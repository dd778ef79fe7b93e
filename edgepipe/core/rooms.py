"""What a problem's devices have room for: on their own, together, and in training.

A device that is used alone has its own limit, or its pool's beside the idle workers of the others.
Stages on several devices of a pool share what the pool has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    pool_free = free_bytes(problem, mates_of(problem, index))
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedRooms:
    """Memory that devices share: `rooms` [C], and what each stage claims of it [C, D, L, L].

    In bytes, but the last of all in whole layers. `kept` [C, D, L, L] is what each microbatch in
    flight adds after the first, in training.
    """

    claims: Floats
    kept: Floats
    rooms: Floats


def shared_rooms(problem: Problem) -> SharedRooms:
    """Each pool, several all together, and these in whole layers of the smallest kind.

    The last tells soonest that a model cannot fit. None where none of them can be short.
    """
    pools = {tuple(mates_of(problem, index)) for index in range(len(problem.devices))}
    shared = sorted(pool for pool in pools if len(pool) > 1)
    free = np.array([free_bytes(problem, pool) for pool in shared], dtype=np.int64)
    inside = np.zeros((len(shared), len(problem.devices), 1, 1), dtype=np.int64)
    for index, pool in enumerate(shared):
        inside[index, list(pool)] = 1
    held, inflight = least_bytes(problem), _inflight_bytes(problem)
    layer = _smallest_layer_bytes(held)
    together = inside.sum(axis=0, keepdims=True)
    all_free = (free.sum(), (free // layer).sum())
    if len(shared) > 1:
        inside = np.concatenate([inside, together])
    claims = np.concatenate([inside * held, together * (held // layer)]).astype(np.float64)
    kept = np.concatenate([inside * inflight, 0 * together * inflight]).astype(np.float64)
    rooms = np.array([*free, *all_free[len(shared) <= 1 :]], dtype=np.float64)
    most = claims + kept * (_num_microbatches(problem) - 1)
    most = np.where(fitting(problem), most, 0).max(axis=(2, 3), initial=0).sum(axis=1)
    num = len(rooms) if (most > rooms).any() else 0
    return SharedRooms(claims=claims[:num], kept=kept[:num], rooms=rooms[:num])


def _inflight_bytes(problem: Problem) -> Ints:
    """What a stage keeps of each microbatch in flight [L, L]; nothing without training."""
    if problem.training is None:
        return np.zeros_like(problem.stage_bytes)
    return problem.training.inflight_bytes


def _num_microbatches(problem: Problem) -> int:
    return problem.goal.num_microbatches if isinstance(problem.goal, Train) else 1


def free_bytes(problem: Problem, pool: Sequence[int]) -> int:
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
