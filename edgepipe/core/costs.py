"""The stated cost model: what one placement costs and whether it fits.

stage s     Σ item_s of its device over its items
hop a → b   latency_s[a, b] + frame_bytes / bytes_per_s[a, b]
hop back    latency_s[last, first] + return_bytes / bytes_per_s[last, first]; none of one stage
total       Σ stages + Σ hops + hop back
load r      Σ over the boundaries through resource r, the way back included, of
            bytes / the NIC's bytes_per_s in that direction         (edgepipe.core.resources)
bottleneck  max(max stage, max load)

latency     total                                       seconds per token of one stream
throughput  g · min(1 / bottleneck, G / total)          tokens per second
prefill     total + (C - 1) · bottleneck                seconds for C chunks; nothing goes home

memory      baseline + stage_bytes[first, end] ≤ the device's limit; over the devices of one pool,
            the idle ones with their baselines, the sum ≤ the largest limit among them, unless all
            of them are idle                             (edgepipe.core.fit)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from edgepipe.core.fit import Claim, Shortage, short_by_bytes, shortages
from edgepipe.core.problem import Floats, Placement, Problem, Stage, check_placement, item_range
from edgepipe.core.resources import Resources, resources_of


class BottleneckKind(StrEnum):
    """What is busiest."""

    COMPUTE = "compute"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """What is busiest, in seconds per frame; `where` is a device or a resource's name."""

    kind: BottleneckKind
    where: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a placement costs; `seconds` is the goal's figure.

    `hop_s` are the hops between the stages in order, `return_s` is the hop back.
    """

    seconds: float
    total_s: float
    stage_s: tuple[float, ...]
    hop_s: tuple[float, ...]
    return_s: float
    bottleneck: Bottleneck
    shortages: tuple[Shortage, ...]
    short_by_bytes: int

    @property
    def fits(self) -> bool:
        """Memory is nowhere short."""
        return not self.shortages


def cost(problem: Problem, placement: Placement) -> Cost:
    """What the placement costs, also where it does not fit."""
    check_placement(problem, placement)
    devices = [stage.device for stage in placement]
    stages = tuple(_stage_s(problem, stage) for stage in placement)
    hops = problem.hop_s()[devices[:-1], devices[1:]]
    back = float(problem.return_s()[devices[-1], devices[0]])
    total = sum(stages) + float(hops.sum()) + back
    busiest = _bottleneck(problem, placement, stages)
    claims = claims_of(problem, placement)
    return Cost(
        seconds=float(problem.goal.seconds(total, busiest.seconds)),
        total_s=total,
        stage_s=stages,
        hop_s=tuple(hops.tolist()),
        return_s=back,
        bottleneck=busiest,
        shortages=shortages(claims),
        short_by_bytes=short_by_bytes(claims),
    )


def _stage_s(problem: Problem, stage: Stage) -> float:
    begin, end = item_range(problem.num_layers, stage.first, stage.end)
    return float(problem.item_s[stage.device, begin:end].sum())


def _bottleneck(problem: Problem, placement: Placement, stages: tuple[float, ...]) -> Bottleneck:
    slowest = int(np.argmax(stages))
    device = problem.devices[placement[slowest].device]
    compute = Bottleneck(
        kind=BottleneckKind.COMPUTE,
        where=f"{device.node}/{device.device}",
        seconds=stages[slowest],
    )
    resources = resources_of(problem)
    loads = loads_of(resources, placement)
    if not loads.size or loads.max() <= compute.seconds:
        return compute
    busiest = int(loads.argmax())
    return Bottleneck(
        kind=BottleneckKind.LINK, where=resources.names[busiest], seconds=float(loads[busiest])
    )


def loads_of(resources: Resources, placement: Placement) -> Floats:
    """Seconds per frame on each resource [R]."""
    devices = [stage.device for stage in placement]
    between: Floats = resources.hop[devices[:-1], devices[1:]].sum(axis=0)
    loads: Floats = between + resources.back[devices[-1], devices[0]]
    return loads


def claims_of(problem: Problem, placement: Placement) -> tuple[Claim, ...]:
    """What every device holds: its stage, or only the idle worker."""
    taken = {stage.device: int(problem.stage_bytes[stage.first, stage.end]) for stage in placement}
    return tuple(
        Claim(
            node=device.node,
            device=device.device,
            pool=device.pool,
            memory_bytes=device.baseline_bytes + taken.get(index, 0),
            limit_bytes=device.memory_limit_bytes,
            idle=index not in taken,
        )
        for index, device in enumerate(problem.devices)
    )
