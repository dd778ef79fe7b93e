"""Placements and training plans at random, over hosts, links, NICs and media."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from drawn_schedules import any_depths, any_order
from hypothesis import strategies as st

from edgepipe.core.goal import Goal
from edgepipe.core.hop import Frame, Place
from edgepipe.core.problem import Device, Nic, Placement, Problem, Stage, Traffic
from edgepipe.core.schedule import Action, Schedule
from edgepipe.core.simulate import Boundary, TrainStage, train
from edgepipe.core.simulation import Simulation

seconds = st.integers(0, 40).map(lambda tenths: tenths / 10)
rates = st.sampled_from([1.0, 2.0, 5.0, 10.0, 100.0])
sizes = st.integers(0, 10)


@st.composite
def any_nics(draw: st.DrawFn, hosts: list[str]) -> dict[str, Nic]:
    """NICs of some of the hosts, on up to two media."""
    nics = st.builds(
        Nic,
        send_bytes_per_s=rates,
        receive_bytes_per_s=rates,
        medium=st.sampled_from([None, "kitchen", "attic"]),
    )
    return {host: draw(nics) for host in hosts if draw(st.booleans())}


@st.composite
def any_problem(
    draw: st.DrawFn, goal: Goal, *, shares: bool, max_stages: int = 4
) -> tuple[Problem, Placement]:
    """Without `shares` no two boundaries share a NIC, and NICs are as fast as the links."""
    num = draw(st.integers(1, max_stages))
    num_layers = draw(st.integers(num, 6))
    hosts = [draw(st.sampled_from("abc")) if shares else f"h{device}" for device in range(num)]
    fast = Nic(send_bytes_per_s=100.0, receive_bytes_per_s=100.0)
    table = st.lists(st.lists(rates, min_size=num, max_size=num), min_size=num, max_size=num)
    late = st.lists(st.lists(seconds, min_size=num, max_size=num), min_size=num, max_size=num)
    item = st.lists(seconds, min_size=num_layers + 2, max_size=num_layers + 2)
    problem = Problem(
        devices=tuple(
            Device(
                node=f"n{device}",
                device="cpu",
                host=host,
                pool="ram",
                memory_limit_bytes=1,
                baseline_bytes=0,
            )
            for device, host in enumerate(hosts)
        ),
        item_s=np.array([draw(item) for _ in range(num)]),
        stage_bytes=np.zeros((num_layers + 1, num_layers + 1), dtype=np.int64),
        link_bytes_per_s=np.array(draw(table)),
        link_latency_s=np.array(draw(late)),
        traffic=Traffic(frame_bytes=draw(sizes), return_bytes=draw(st.one_of(st.none(), sizes))),
        goal=goal,
        nics=draw(any_nics(hosts)) if shares else dict.fromkeys(hosts, fast),
    )
    inner = st.sets(st.integers(1, max(1, num_layers - 1)), min_size=num - 1, max_size=num - 1)
    cuts = [0, *sorted(draw(inner)), num_layers]
    order = draw(st.permutations(range(num)))
    return problem, tuple(
        Stage(device=device, first=first, end=end)
        for device, (first, end) in zip(order, pairwise(cuts), strict=True)
    )


def going_nowhere(problem: Problem) -> Problem:
    """As for prefill: nothing goes home."""
    return replace(problem, traffic=replace(problem.traffic, return_bytes=None))


@dataclass(frozen=True)
class Training:
    """The arguments of `train`."""

    schedule: Schedule
    stages: list[TrainStage]
    boundaries: list[Boundary]
    nics: dict[str, Nic]

    def run(self) -> Simulation[Action]:
        return train(self.schedule, self.stages, self.boundaries, self.nics)


def on(schedule: Schedule, *, forward_s: float, backward_s: float) -> Training:
    """Stages of equal speed, each on a host of its own, and frames that take no time."""
    nothing = Frame(num_bytes=0, bytes_per_s=1.0, latency_s=0.0)
    return Training(
        schedule=schedule,
        stages=[
            TrainStage(
                place=Place(name=f"n{stage}/cpu", host=f"h{stage}"),
                forward_s=forward_s,
                backward_s=backward_s,
            )
            for stage in range(schedule.num_stages)
        ],
        boundaries=[Boundary(down=nothing, up=nothing)] * (schedule.num_stages - 1),
        nics={},
    )


@st.composite
def any_training(draw: st.DrawFn, *, shares: bool) -> Training:
    """Any valid schedule; without `shares` only links carry the frames."""
    schedule = draw(st.one_of(any_order(), any_depths(max_stages=4, max_microbatches=6)))
    hosts = [draw(st.sampled_from("abc")) for _ in schedule.stages]
    frames = st.builds(Frame, num_bytes=sizes, bytes_per_s=rates, latency_s=seconds)
    return Training(
        schedule=schedule,
        stages=[
            TrainStage(
                place=Place(name=f"n{stage}/cpu", host=host),
                forward_s=draw(seconds),
                backward_s=draw(seconds),
            )
            for stage, host in enumerate(hosts)
        ],
        boundaries=[Boundary(down=draw(frames), up=draw(frames)) for _ in hosts[1:]],
        nics=draw(any_nics(hosts)) if shares else {},
    )


def lone_devices(*limits: int) -> tuple[Device, ...]:
    """Devices that share neither host nor memory, each with so many bytes."""
    return tuple(
        Device(
            node=f"n{index}",
            device="cpu",
            host=f"n{index}",
            pool="ram",
            memory_limit_bytes=limit,
            baseline_bytes=0,
        )
        for index, limit in enumerate(limits)
    )
