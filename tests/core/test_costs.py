"""The stated cost model on placements that can be worked out by hand.

Two layers of 1 s on each device, an embedding of 0.25 s, a head of 0.5 s; device 1 is twice as
slow. A frame of 100 bytes crosses 1000 bytes/s in 0.1 s, and 10 bytes go home in 0.01 s.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from on_paper import llama

from edgepipe.core.costs import BottleneckKind, cost
from edgepipe.core.fit import Workload, stage_memory
from edgepipe.core.frame import DType
from edgepipe.core.goal import Goal, Latency, Prefill, Throughput
from edgepipe.core.problem import (
    Device,
    Nic,
    Problem,
    Stage,
    Traffic,
    stage_seconds,
)
from edgepipe.core.stage_bytes import stage_bytes_of

ONE = (Stage(device=0, first=0, end=2),)
TWO = (Stage(device=0, first=0, end=1), Stage(device=1, first=1, end=2))


def device(node: str, *, pool: str = "ram", limit: int = 100, baseline: int = 10) -> Device:
    return Device(
        node=node,
        device="cpu",
        host=node,
        pool=pool,
        memory_limit_bytes=limit,
        baseline_bytes=baseline,
    )


def problem(goal: Goal, *, back: bool = True) -> Problem:
    return Problem(
        devices=(device("a"), device("b"), device("c")),
        item_s=np.array([[0.25, 1, 1, 0.5], [0.5, 2, 2, 1], [0.25, 1, 1, 0.5]]),
        stage_bytes=np.array([[0, 40, 90], [0, 0, 50], [0, 0, 0]]),
        link_bytes_per_s=np.full((3, 3), 1000.0),
        link_latency_s=np.array([[0, 0.02, 0], [0.03, 0, 0], [0, 0, 0]]),
        traffic=Traffic(frame_bytes=100, return_bytes=10 if back else None),
        goal=goal,
    )


def test_a_token_pays_for_its_stages_its_hops_and_the_way_home() -> None:
    found = cost(problem(Latency()), TWO)
    assert found.stage_s == pytest.approx((1.25, 3.0))
    assert found.hop_s == pytest.approx((0.12,))
    assert found.return_s == pytest.approx(0.04)
    assert found.seconds == pytest.approx(1.25 + 3.0 + 0.12 + 0.04)


def test_one_stage_has_no_way_home() -> None:
    found = cost(problem(Latency()), ONE)
    assert found.seconds == pytest.approx(2.75)
    assert found.hop_s == ()


@pytest.mark.parametrize(("num_groups", "seconds"), [(1, 4.41), (2, 3.0), (8, 3.0)])
def test_groups_fill_the_ring_until_a_stage_is_never_idle(num_groups: int, seconds: float) -> None:
    goal = Throughput(num_groups=num_groups, group_size=4)
    found = cost(problem(goal), TWO)
    assert found.seconds == pytest.approx(seconds)
    assert goal.tokens_per_s(found.seconds) == pytest.approx(
        4 * min(1 / 3.0, num_groups / found.total_s)
    )


def test_chunks_follow_one_another_through_the_busiest_stage() -> None:
    found = cost(problem(Prefill(num_chunks=5), back=False), TWO)
    assert found.seconds == pytest.approx(1.25 + 0.12 + 3.0 + 4 * 3.0)
    assert found.bottleneck.kind is BottleneckKind.COMPUTE
    assert found.bottleneck.where == "b/cpu"


def test_a_nic_is_the_bottleneck_where_it_takes_longer_than_any_stage() -> None:
    slow = Nic(send_bytes_per_s=25.0, receive_bytes_per_s=1000.0)
    found = cost(replace(problem(Prefill(num_chunks=2), back=False), nics={"a": slow}), TWO)
    assert found.bottleneck.where == "from a"
    assert found.bottleneck.seconds == pytest.approx(4.0)
    assert found.seconds == pytest.approx(4.37 + 4.0)


def test_a_medium_carries_what_all_its_stations_send_and_receive() -> None:
    wifi = Nic(send_bytes_per_s=50.0, receive_bytes_per_s=25.0, medium="channel 6")
    found = cost(replace(problem(Latency()), nics={"a": wifi, "b": wifi}), TWO)
    assert found.bottleneck.where == "medium channel 6"
    assert found.bottleneck.seconds == pytest.approx(110 / 50 + 110 / 25)


def test_devices_of_one_host_need_no_nic() -> None:
    base = problem(Latency())
    together = tuple(replace(one, host="a") for one in base.devices)
    slow = Nic(send_bytes_per_s=1.0, receive_bytes_per_s=1.0)
    found = cost(replace(base, devices=together, nics={"a": slow}), TWO)
    assert found.bottleneck.kind is BottleneckKind.COMPUTE


def test_a_stage_must_fit_its_device_beside_the_baseline() -> None:
    assert cost(problem(Latency()), ONE).fits
    tight = (device("a", limit=99), device("b"), device("c"))
    found = cost(replace(problem(Latency()), devices=tight), ONE)
    assert (found.fits, found.short_by_bytes) == (False, 1)


def test_devices_of_one_pool_share_its_limit_with_the_idle_ones() -> None:
    """40 and 50 bytes of stages beside three baselines of 10."""
    for limit, fits in ((119, False), (120, True)):
        pool = tuple(
            replace(device("a", limit=limit), device=name, host="a") for name in ("x", "y", "z")
        )
        assert cost(replace(problem(Latency()), devices=pool), TWO).fits is fits


def test_stage_seconds_hold_the_embedding_and_the_head() -> None:
    assert stage_seconds(problem(Latency()))[0] == pytest.approx(
        np.array([[0, 1.25, 2.75], [0, 0, 1.5], [0, 0, 0]])
    )


def test_stage_bytes_are_those_of_the_fit() -> None:
    model = llama(num_layers=3)
    workload = Workload(dtype=DType.FLOAT32, num_slots=4, max_positions=128, prefill_chunk=64)
    table = stage_bytes_of(model, workload)
    tied = model.items(0, 3, embedding=True, head=True)
    assert table[0, 3] == stage_memory(model, tied, workload).total_bytes
    middle = model.items(1, 2, embedding=False, head=False)
    assert table[1, 2] == stage_memory(model, middle, workload).total_bytes
    assert not table[np.tri(4, dtype=bool)].any()
