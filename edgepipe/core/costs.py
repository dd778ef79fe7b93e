"""The stated cost model: what one placement costs and whether it fits.

stage s     Σ item_s of its device over its items
hop a → b   latency_s[a, b] + frame_bytes / bytes_per_s[a, b], in training and the gradient's way
            latency_s[b, a] + gradient_bytes / bytes_per_s[b, a]
hop back    return_latency_s[last, first] + return_bytes / bytes_per_s[last, first]; 0 of one stage
total       Σ stages + Σ hops + hop back
load r      Σ over the boundaries through resource r, the way back included, of
            bytes / the NIC's bytes_per_s in that direction         (edgepipe.core.resources)
bottleneck  max(max stage, max load)

latency     total                                       seconds per token of one stream
throughput  g · min(1 / bottleneck, G / total)          tokens per second
prefill     total + (C - 1) · bottleneck                seconds for C chunks; nothing goes home
train       total + (M - 1) · period + max optimizer + fixed       seconds per step
            a stage is forward and backward of a microbatch; the hop back is the exchange for a tied
            embedding, both ways, once a step; period: edgepipe.core.period

memory      baseline + stage_bytes[first, end] ≤ the device's limit; over the devices of one pool,
            the idle ones with their baselines, the sum ≤ the largest limit among them, unless all
            of them are idle                             (edgepipe.core.fit)
            training adds inflight_bytes[first, end] for each microbatch in flight
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgepipe.core.demand import claims_of
from edgepipe.core.fit import Shortage, short_by_bytes, shortages
from edgepipe.core.goal import Train
from edgepipe.core.period import period_of, round_trips
from edgepipe.core.problem import (
    Floats,
    Placement,
    Problem,
    check_placement,
    item_range,
    stage_s,
)
from edgepipe.core.resources import Resources, resources_of


class BottleneckKind(StrEnum):
    """What is busiest."""

    COMPUTE = "compute"
    LINK = "link"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """What is busiest, in seconds per frame; `where` is a device or a resource's name.

    Memory is, in training, where it has no room for the microbatches that would hide a round trip.
    """

    kind: BottleneckKind
    where: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a placement costs; `seconds` is the goal's figure.

    `hop_s` are the hops between the stages in order, `return_s` is the hop back. In training the
    bottleneck's seconds are the period, `inflight` the microbatches in flight on each stage, and
    `update_s` the slowest optimizer.
    """

    seconds: float
    total_s: float
    stage_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    return_s: float
    bottleneck: Bottleneck
    shortages: tuple[Shortage, ...]
    short_by_bytes: int
    inflight: tuple[int, ...] = ()
    update_s: float = 0.0

    @property
    def fits(self) -> bool:
        """Memory is nowhere short."""
        return not self.shortages


def cost(problem: Problem, placement: Placement, resources: Resources | None = None) -> Cost:
    """What the placement costs, also where it does not fit.

    `resources` are the problem's; who costs many placements has them at hand.
    """
    check_placement(problem, placement)
    devices = [stage.device for stage in placement]
    stages = tuple(stage_s(problem, stage) for stage in placement)
    hops = problem.hop_s()[devices[:-1], devices[1:]]
    back = float(problem.return_s()[devices[-1], devices[0]])
    total = sum(stages) + float(hops.sum()) + back
    if resources is None:
        resources = resources_of(problem)
    busiest = _bottleneck(problem, resources, placement, stages)
    inflight: tuple[int, ...] = ()
    if isinstance(problem.goal, Train):
        busiest, inflight = _paced(problem, placement, round_trips(stages, hops.tolist()), busiest)
    claims = claims_of(problem, placement, inflight)
    update = _update_s(problem, placement)
    return Cost(
        seconds=float(problem.goal.seconds(total, busiest.seconds)) + update,
        total_s=total,
        stage_s=stages,
        hop_s=tuple(hops.tolist()),
        return_s=back,
        bottleneck=busiest,
        shortages=shortages(claims),
        short_by_bytes=short_by_bytes(claims),
        inflight=inflight,
        update_s=update,
    )


def rank_of(problem: Problem, cost: Cost) -> float:
    """What placements are ordered by: the goal's figure, with what tells equal ones apart."""
    return float(problem.goal.rank(cost.total_s, cost.bottleneck.seconds)) + cost.update_s


def _bottleneck(
    problem: Problem, resources: Resources, placement: Placement, stages: tuple[float, ...]
) -> Bottleneck:
    slowest = int(np.argmax(stages))
    device = problem.devices[placement[slowest].device]
    compute = Bottleneck(
        kind=BottleneckKind.COMPUTE,
        where=device.name,
        seconds=stages[slowest],
    )
    loads = loads_of(resources, placement)
    if not loads.size or loads.max() <= compute.seconds:
        return compute
    busiest = int(loads.argmax())
    return Bottleneck(
        kind=BottleneckKind.LINK, where=resources.names[busiest], seconds=float(loads[busiest])
    )


def _paced(
    problem: Problem, placement: Placement, trips: Sequence[float], busiest: Bottleneck
) -> tuple[Bottleneck, tuple[int, ...]]:
    """The bottleneck of a training step, and the microbatches in flight."""
    assert isinstance(problem.goal, Train)
    period = period_of(
        problem,
        placement,
        trips,
        least_s=busiest.seconds,
        num_microbatches=problem.goal.num_microbatches,
    )
    if period.seconds == busiest.seconds:
        return busiest, period.inflight
    # The stage whose round trip is long for the few microbatches that it has in flight.
    tight = max(range(len(trips)), key=lambda i: trips[i] / period.inflight[i])
    where = problem.devices[placement[tight].device].name
    memory = Bottleneck(kind=BottleneckKind.MEMORY, where=where, seconds=period.seconds)
    return memory, period.inflight


def _update_s(problem: Problem, placement: Placement) -> float:
    """The slowest stage's optimizer; 0 without training."""
    if problem.training is None:
        return 0.0
    ranges = [item_range(problem.num_layers, stage.first, stage.end) for stage in placement]
    return max(
        float(problem.training.update_s[stage.device, slice(*items)].sum())
        for stage, items in zip(placement, ranges, strict=True)
    )


def loads_of(resources: Resources, placement: Placement) -> Floats:
    """Seconds per frame on each resource [R]."""
    devices = [stage.device for stage in placement]
    between: Floats = resources.hop[devices[:-1], devices[1:]].sum(axis=0)
    loads: Floats = between + resources.back[devices[-1], devices[0]]
    return loads
