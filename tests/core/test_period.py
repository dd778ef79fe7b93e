"""The period of a training pipeline, on numbers that can be worked out by hand.

Stages of 3 s and 1 s, hops of 0.5 s: round trips of 4.5 s and 1 s. Each microbatch in flight
keeps 10 bytes on a stage that itself takes 40.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from drawn_networks import lone_devices

from edgepipe.core.costs import BottleneckKind, cost
from edgepipe.core.goal import Train
from edgepipe.core.period import round_trips
from edgepipe.core.problem import Nic, Problem, Stage, Traffic, Training

TWO = (Stage(device=0, first=0, end=1), Stage(device=1, first=1, end=2))
ROOM = 1000


def problem(*, first: int = ROOM, second: int = ROOM, num_microbatches: int = 8) -> Problem:
    """Two devices with `first` and `second` bytes."""
    places = np.arange(3)
    layers = np.maximum(places - places[:, None], 0)
    return Problem(
        devices=lone_devices(first, second),
        item_s=np.array([[0.0, 3, 3, 0], [0, 1, 1, 0]]),
        stage_bytes=40 * layers,
        link_bytes_per_s=np.full((2, 2), 400.0),
        link_latency_s=np.zeros((2, 2)),
        traffic=Traffic(frame_bytes=100, gradient_bytes=100),
        goal=Train(num_microbatches=num_microbatches, fixed_s=0.25),
        training=Training(
            inflight_bytes=10 * layers,
            update_s=np.array([[0.0, 0.5, 0.5, 0], [0, 2, 2, 0]]),
        ),
    )


def test_a_round_trip_is_every_later_stage_and_hop_and_its_own() -> None:
    assert round_trips((3.0, 1.0), (0.5,)) == pytest.approx((4.5, 1.0))
    assert round_trips((1.0, 2.0, 4.0), (0.5, 0.25)) == pytest.approx((7.75, 6.25, 4.0))


def test_a_step_is_filled_paced_by_the_busiest_stage_and_ended_by_the_slowest_optimizer() -> None:
    found = cost(problem(), TWO)
    assert found.seconds == pytest.approx(4.5 + 7 * 3.0 + 2.0 + 0.25)
    assert found.bottleneck.kind is BottleneckKind.COMPUTE
    assert found.update_s == pytest.approx(2.0)
    assert found.inflight == (3, 2)


def test_memory_for_one_microbatch_makes_the_period_its_round_trip() -> None:
    found = cost(problem(first=50), TWO)
    assert found.bottleneck.kind is BottleneckKind.MEMORY
    assert found.bottleneck.where == "n0/cpu"
    assert found.bottleneck.seconds == pytest.approx(4.5)
    assert found.inflight == (1, 2)
    assert found.fits


def test_no_room_for_a_single_microbatch_is_a_shortage() -> None:
    found = cost(problem(first=49), TWO)
    assert (found.fits, found.short_by_bytes) == (False, 1)


@pytest.mark.parametrize(("limit", "inflight", "seconds"), [(109, (), 0), (110, (2, 1), 3.0)])
def test_devices_of_one_pool_share_it_out_by_need(
    limit: int, inflight: tuple[int, ...], seconds: float
) -> None:
    base = problem(first=limit, second=limit)
    pool = tuple(
        replace(one, node="n", device=str(index)) for index, one in enumerate(base.devices)
    )
    found = cost(replace(base, devices=pool), TWO)
    if inflight:
        assert found.inflight == inflight
        assert found.bottleneck.seconds == pytest.approx(seconds)
    else:
        assert found.inflight == (1, 1)
        assert found.bottleneck.seconds == pytest.approx(4.5)


def test_a_nic_carries_frames_one_way_and_gradients_the_other() -> None:
    slow = Nic(send_bytes_per_s=1000.0, receive_bytes_per_s=20.0)
    found = cost(replace(problem(), nics={"n0": slow}), TWO)
    assert found.bottleneck.where == "to n0"
    assert found.bottleneck.seconds == pytest.approx(5.0)


def test_a_tied_embedding_is_exchanged_once_a_step() -> None:
    traffic = Traffic(frame_bytes=100, gradient_bytes=100, exchange_bytes=400)
    found = cost(replace(problem(), traffic=traffic), TWO)
    assert found.return_s == pytest.approx(2.0)
    assert found.seconds == pytest.approx(4.5 + 2.0 + 7 * 3.0 + 2.0 + 0.25)
    assert found.inflight == (3, 2)
