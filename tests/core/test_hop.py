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


def test_a_frame_takes_as_long_as_the_slowest_on_its_way_and_a_share_of_the_others() -> None:
    nics = {"desk": nic(25.0, 1.0), "attic": nic(1.0, 100.0)}
    made = hop(DESK, ATTIC, FRAME, nics)
    assert made == Hop(
        num_bytes=100,
        latency_s=0.5,
        occupied={"link desk/cpu > attic/cuda:0": 2.0, "from desk": 4.0, "to attic": 1.0},
    )
    assert made.seconds == 4.0
    assert made.shares == {
        "link desk/cpu > attic/cuda:0": 0.5,
        "from desk": 1.0,
        "to attic": 0.25,
    }


def test_a_frame_of_nothing_takes_no_time_and_no_share() -> None:
    made = hop(DESK, ATTIC, Frame(num_bytes=0, bytes_per_s=50.0, latency_s=0.5), {})
    assert (made.seconds, made.shares, Hop().seconds) == (0.0, {}, 0.0)


def test_from_station_to_station_a_frame_crosses_the_medium_twice() -> None:
    nics = {"desk": nic(50.0, 50.0, "wifi"), "attic": nic(50.0, 25.0, "wifi")}
    assert hop(DESK, ATTIC, FRAME, nics) == Hop(
        num_bytes=100,
        latency_s=0.5,
        occupied={"link desk/cpu > attic/cuda:0": 2.0, "medium wifi": 6.0},
    )


def test_within_a_host_a_frame_occupies_its_link_alone() -> None:
    other = Place(name="desk/cuda:0", host="desk")
    assert hop(DESK, other, FRAME, {"desk": nic(1.0, 1.0)}) == Hop(
        num_bytes=100, latency_s=0.5, occupied={"link desk/cpu > desk/cuda:0": 2.0}
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
        loaded = {resources.names[index]: loads[index] for index in np.flatnonzero(loads)}
        _, *shared = made.occupied
        assert loaded.keys() <= set(shared) <= set(resources.names)
        assert loaded == {name: pytest.approx(made.occupied[name]) for name in loaded}
        if problem.traffic.frame_bytes:
            assert loaded.keys() == set(shared)
