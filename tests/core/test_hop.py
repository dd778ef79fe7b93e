"""What a frame occupies: the same resources, for the same seconds, as the stated cost model."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_networks import any_problem
from hypothesis import given, settings

from edgepipe.core.goal import Latency
from edgepipe.core.hop import Frame, Hop, Place, hop
from edgepipe.core.problem import Nic, Placement, Problem
from edgepipe.core.resources import resources_of
from edgepipe.core.ring import Ring

DESK = Place(name="desk/cpu", host="desk")
ATTIC = Place(name="attic/cuda:0", host="attic")
FRAME = Frame(num_bytes=100, bytes_per_s=50.0, latency_s=0.5)


def nic(send: float, receive: float, medium: str | None = None) -> Nic:
    return Nic(send_bytes_per_s=send, receive_bytes_per_s=receive, medium=medium)


def test_a_frame_holds_all_on_its_way_for_as_long_as_the_slowest_takes() -> None:
    nics = {"desk": nic(25.0, 1.0), "attic": nic(1.0, 100.0)}
    assert hop(DESK, ATTIC, FRAME, nics) == Hop(
        seconds=4.0,
        latency_s=0.5,
        resources=("link desk/cpu > attic/cuda:0", "from desk", "to attic"),
    )


def test_from_station_to_station_a_frame_crosses_the_medium_twice() -> None:
    nics = {"desk": nic(50.0, 50.0, "wifi"), "attic": nic(50.0, 25.0, "wifi")}
    assert hop(DESK, ATTIC, FRAME, nics) == Hop(
        seconds=6.0, latency_s=0.5, resources=("link desk/cpu > attic/cuda:0", "medium wifi")
    )


def test_within_a_host_a_frame_occupies_its_link_alone() -> None:
    other = Place(name="desk/cuda:0", host="desk")
    assert hop(DESK, other, FRAME, {"desk": nic(1.0, 1.0)}) == Hop(
        seconds=2.0, latency_s=0.5, resources=("link desk/cpu > desk/cuda:0",)
    )


@settings(max_examples=40, deadline=None)
@given(any_problem(Latency(), shares=True))
def test_nics_and_media_are_those_of_the_stated_cost_model(
    drawn: tuple[Problem, Placement],
) -> None:
    problem, placement = drawn
    resources, devices = resources_of(problem), [stage.device for stage in placement]
    for at, made in enumerate(Ring.of(problem, placement).hops):
        loads = resources.hop[devices[at], devices[at + 1]]
        link = problem.traffic.frame_bytes / problem.link_bytes_per_s[devices[at], devices[at + 1]]
        assert made.seconds == pytest.approx(max([link, *loads]))
        loaded = {resources.names[index] for index in np.flatnonzero(loads)}
        assert loaded <= set(made.resources[1:]) <= set(resources.names)
        if problem.traffic.frame_bytes:
            assert loaded == set(made.resources[1:])
