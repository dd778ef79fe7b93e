"""What a job holds is free to a plan that it makes anew."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.core.holding import Holding
from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceKind,
    DeviceProfile,
    LeaseView,
    NodeId,
    NodeProfile,
)

DEVICE = DeviceProfile(
    id=DeviceId("cuda:0"),
    kind=DeviceKind.CUDA,
    name="a GPU",
    pool="cuda:0",
    memory_bytes=100,
    memory_free_bytes=90,
    memory_limit_bytes=95,
    baseline_bytes=0,
    port=4001,
    num_threads=1,
)


def node(device: DeviceProfile) -> NodeProfile:
    return NodeProfile(
        id=NodeId("ada"),
        name="ada",
        version="0",
        api=1,
        cluster="c",
        host_id="h",
        addresses=(Address(host="10.0.0.1", port=4000),),
        devices=(device,),
    )


def leased_to(job: str) -> DeviceProfile:
    lease = LeaseView(job=job, holder="me@here", fence=1, expires_in_s=30)
    return replace(DEVICE, lease=lease, memory_free_bytes=10)


def test_what_others_hold_stays_theirs() -> None:
    theirs = node(leased_to("theirs"))
    assert Holding(job="ours").seen(theirs) == theirs
    assert Holding().seen(theirs) == theirs


def test_our_own_lease_and_the_memory_of_our_stages_are_free() -> None:
    holding = Holding(job="ours").and_uses(NodeId("ada"), DEVICE)
    assert holding.seen(node(leased_to("ours"))) == node(DEVICE)
    parked = replace(DEVICE, memory_free_bytes=20)
    assert holding.seen(node(parked)) == node(DEVICE)


def test_what_was_free_before_the_first_use_counts() -> None:
    holding = Holding(job="ours").and_uses(NodeId("ada"), DEVICE)
    again = holding.and_uses(NodeId("ada"), replace(DEVICE, memory_free_bytes=10))
    assert again == holding
