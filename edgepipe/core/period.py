"""How often a training pipeline takes a microbatch, and how many each stage has in flight.

round trip RT of stage i   Σ over stages j ≥ i of forward + backward
                           + Σ over the boundaries after i of a frame's and a gradient's hop
period                     the least that is no shorter than any stage and any load, and for which
                           every stage may have RT / period microbatches in flight: at most M,
                           and what memory allows
in flight on stage i       min(M, what memory allows, ⌈RT / period⌉ + 1)

Where devices share memory with none, memory allows a stage a number of its own, K, and the period
is max(stage, load, RT / min(M, K)). Devices of one pool share it out by what each one needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from edgepipe.core.problem import Placement, Problem
from edgepipe.core.rooms import free_bytes, mates_of

_ROUNDING = 1e-9  # RT / (RT / 3) may come out above 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Seconds per microbatch in steady state, and the microbatches in flight on each stage."""

    seconds: float
    inflight: tuple[int, ...]


def round_trips(stage_s: Sequence[float], hop_s: Sequence[float]) -> tuple[float, ...]:
    """Seconds from a stage's forward to the end of its backward, for each stage."""
    trips: list[float] = []
    for stage, hop in zip(reversed(stage_s), (0.0, *reversed(hop_s)), strict=True):
        trips.append(stage + hop + (trips[-1] if trips else 0.0))
    return tuple(reversed(trips))


def period_of(
    problem: Problem,
    placement: Placement,
    trips: Sequence[float],
    *,
    least_s: float,
    num_microbatches: int,
) -> Period:
    """The period of a placement whose busiest stage or load takes `least_s`.

    Where not even one microbatch in flight on each stage fits, that is what it is made for.
    """
    rooms = _rooms_of(problem, placement)
    tries = sorted(_candidates(trips, least_s, num_microbatches))
    low, high = 0, len(tries) - 1
    while low < high:
        middle = (low + high) // 2
        if _fit(rooms, _needed(trips, tries[middle])):
            high = middle
        else:
            low = middle + 1
    needed = _needed(trips, tries[low])
    return Period(seconds=tries[low], inflight=_spared(rooms, needed, num_microbatches))


def _candidates(trips: Sequence[float], least_s: float, num_microbatches: int) -> set[float]:
    """Periods at which a stage could do with one microbatch less; none with more than M."""
    least = max(least_s, max(trips) / num_microbatches)
    fewer = (trip / count for trip in trips for count in range(1, num_microbatches + 1))
    return {least, *(period for period in fewer if period > least)}


def _needed(trips: Sequence[float], period: float) -> tuple[int, ...]:
    if not period:  # nothing takes any time
        return (1,) * len(trips)
    return tuple(max(1, ceil(trip / period * (1 - _ROUNDING))) for trip in trips)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """Bytes for microbatches in flight; each of these stages (by index) keeps so many of one."""

    left: int
    kept: tuple[tuple[int, int], ...]

    def fits(self, inflight: Sequence[int]) -> bool:
        return sum(inflight[index] * size for index, size in self.kept) <= self.left


def _rooms_of(problem: Problem, placement: Placement) -> list[_Room]:
    """What each stage's device has beside the stage, and each pool that devices share."""
    stages = {stage.device: index for index, stage in enumerate(placement)}
    own = [
        _room(problem, placement, [index], _own_bytes(problem, d)) for d, index in stages.items()
    ]
    pools = {tuple(mates_of(problem, device)) for device in stages}
    shared = [
        _room(
            problem,
            placement,
            [stages[device] for device in pool if device in stages],
            free_bytes(problem, pool),
        )
        for pool in pools
        if len(pool) > 1
    ]
    return own + shared


def _own_bytes(problem: Problem, index: int) -> int:
    device = problem.devices[index]
    return device.memory_limit_bytes - device.baseline_bytes


def _room(problem: Problem, placement: Placement, stages: Sequence[int], free: int) -> _Room:
    """What these stages leave of so many bytes."""
    assert problem.training is not None
    spans = [(index, (placement[index].first, placement[index].end)) for index in stages]
    return _Room(
        left=free - sum(int(problem.stage_bytes[span]) for _, span in spans),
        kept=tuple((index, int(problem.training.inflight_bytes[span])) for index, span in spans),
    )


def _fit(rooms: Sequence[_Room], inflight: Sequence[int]) -> bool:
    return all(room.fits(inflight) for room in rooms)


def _spared(
    rooms: Sequence[_Room], needed: tuple[int, ...], num_microbatches: int
) -> tuple[int, ...]:
    """One more for each stage in turn, where it is of use and fits."""
    inflight = needed
    for index, count in enumerate(needed):
        more = (*inflight[:index], count + 1, *inflight[index + 1 :])
        if count < num_microbatches and _fit(rooms, more):
            inflight = more
    return inflight
