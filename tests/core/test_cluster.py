from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.cluster import (
    Appeared,
    ClusterState,
    ConnectionClosed,
    Described,
    Event,
    Heartbeat,
    Member,
    MemberKey,
    NodeSighting,
    Refused,
    Tick,
    Withdrawn,
    apply,
)
from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceKind,
    DeviceProfile,
    LeaseView,
    NodeId,
    NodeProfile,
    NodeState,
)

EMPTY = ClusterState(cluster="default", api=1)
KEY = MemberKey("aa11")
ADDRESS = Address(host="10.0.0.1", port=27700)
PEER = NodeSighting(addresses=(ADDRESS,))
SIGHTING = replace(PEER, id=NodeId("aa11"), name="attic", cluster="default", api=1)
DEVICE = DeviceProfile(
    id=DeviceId("cpu"),
    kind=DeviceKind.CPU,
    name="EPYC",
    pool="host",
    memory_bytes=1,
    memory_free_bytes=1,
    memory_limit_bytes=1,
    baseline_bytes=0,
    port=27701,
    num_threads=2,
)
PROFILE = NodeProfile(
    id=NodeId("aa11"),
    name="attic",
    version="0.1.0",
    api=1,
    cluster="default",
    host_id="h",
    addresses=(ADDRESS,),
    devices=(DEVICE,),
)
LEASED = replace(DEVICE, lease=LeaseView(job="j7", holder="bob@desk", fence=3, expires_in_s=20.0))


def fold(*events: Event, state: ClusterState = EMPTY) -> ClusterState:
    for event in events:
        state = apply(event, state)
    return state


def only(state: ClusterState) -> Member:
    (member,) = state.members.values()
    return member


def appeared(sighting: NodeSighting = SIGHTING, now_s: float = 0.0) -> Appeared:
    return Appeared(sighting=sighting, now_s=now_s)


def described(
    profile: NodeProfile = PROFILE, key: MemberKey = KEY, now_s: float = 0.0
) -> Described:
    return Described(key=key, profile=profile, now_s=now_s)


def tick(now_s: float) -> Tick:
    return Tick(now_s=now_s)


def test_a_node_that_appears_is_not_alive_until_it_answers() -> None:
    assert only(fold(appeared())).state is NodeState.SUSPECT
    assert fold(appeared()).alive == ()
    state = fold(appeared(), described())
    assert [member.name for member in state.alive] == ["attic"]


def test_silence_makes_a_node_suspect_then_lost() -> None:
    state = fold(appeared(), described(now_s=10.0))
    seen = [(s, only(fold(tick(10 + s), state=state)).state) for s in (1.9, 2.0, 5.9, 6.0)]
    assert seen == [
        (1.9, NodeState.ALIVE),
        (2.0, NodeState.SUSPECT),
        (5.9, NodeState.SUSPECT),
        (6.0, NodeState.LOST),
    ]


def test_a_heartbeat_clears_suspicion_but_does_not_revive_the_lost() -> None:
    state = fold(appeared(), described(), tick(3.0))
    assert only(fold(Heartbeat(key=KEY, now_s=3.5), tick(5.0), state=state)).reason == ""
    lost = fold(tick(6.0), Heartbeat(key=KEY, now_s=6.1), state=state)
    assert only(lost).state is NodeState.LOST
    assert only(fold(described(now_s=7.0), state=lost)).state is NodeState.ALIVE


def test_a_closed_connection_has_one_second_to_come_back() -> None:
    state = fold(appeared(), described(), ConnectionClosed(key=KEY, now_s=1.0))
    assert only(state).state is NodeState.SUSPECT
    assert only(fold(tick(2.0), state=state)).state is NodeState.LOST
    back = fold(Heartbeat(key=KEY, now_s=1.5), tick(2.5), state=state)
    assert only(back).state is NodeState.ALIVE


def test_a_node_that_never_answers_becomes_unusable_and_says_where() -> None:
    member = only(fold(appeared(), tick(6.0)))
    assert member.state is NodeState.UNUSABLE
    assert member.reason == "seen, but nothing answers at 10.0.0.1:27700"


def test_a_refusal_keeps_its_reason_until_the_node_describes_itself() -> None:
    state = fold(appeared(), Refused(key=KEY, reason="its port is closed", now_s=0.1), tick(60.0))
    assert (only(state).state, only(state).reason) == (NodeState.UNUSABLE, "its port is closed")
    assert only(fold(described(now_s=60.0), state=state)).state is NodeState.ALIVE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"api": 2}, "speaks wire version 2, this edgepipe 1: update this edgepipe"),
        ({"api": 0}, "speaks wire version 0, this edgepipe 1: update it"),
        ({"cluster": "lab"}, "belongs to cluster 'lab', not 'default'"),
        ({"devices": (LEASED,)}, "cpu is leased to job j7 of bob@desk"),
    ],
)
def test_a_node_that_cannot_be_used_says_why(changes: dict[str, object], reason: str) -> None:
    member = only(fold(appeared(), described(replace(PROFILE, **changes))))
    assert (member.state, member.reason) == (NodeState.UNUSABLE, reason)


@pytest.mark.parametrize("changes", [{"api": 2}, {"cluster": "lab"}])
def test_an_advertisement_of_another_kind_is_set_aside(changes: dict[str, object]) -> None:
    assert only(fold(appeared(replace(SIGHTING, **changes)))).state is NodeState.UNUSABLE


def test_a_node_with_one_free_device_is_usable() -> None:
    free = replace(DEVICE, id=DeviceId("cuda:0"))
    state = fold(appeared(), described(replace(PROFILE, devices=(LEASED, free))))
    assert only(state).state is NodeState.ALIVE


def test_a_lease_of_our_own_job_does_not_count_against_us() -> None:
    ours = replace(EMPTY, job="j7")
    state = fold(appeared(), described(replace(PROFILE, devices=(LEASED,))), state=ours)
    assert only(state).state is NodeState.ALIVE


def test_a_static_peer_takes_its_id_once_it_describes_itself() -> None:
    state = fold(appeared(PEER), described(key=PEER.key))
    assert list(state.members) == [KEY]
    assert only(state).name == "attic"


def test_one_node_found_both_ways_is_one_member() -> None:
    state = fold(appeared(), appeared(PEER), described(), described(key=PEER.key))
    assert list(state.members) == [KEY]
    assert only(state).sighting == SIGHTING


def test_a_node_that_answers_for_another_is_not_used() -> None:
    state = fold(appeared(), described(replace(PROFILE, id=NodeId("bb22"))))
    assert only(state).state is NodeState.UNUSABLE
    assert "node bb22 answers" in only(state).reason


def test_a_withdrawal_removes_only_who_is_not_answering() -> None:
    goodbye = Withdrawn(key=KEY, now_s=1.0)
    assert fold(appeared(), goodbye).members == {}
    state = fold(appeared(), described(), goodbye)
    assert only(state).state is NodeState.ALIVE


def test_a_lost_node_that_appears_again_gets_another_chance() -> None:
    state = fold(appeared(), described(), tick(6.0), appeared(now_s=7.0), tick(7.5))
    assert only(state).state is NodeState.SUSPECT


def test_events_about_strangers_change_nothing() -> None:
    stranger = MemberKey("cc33")
    events = (
        Withdrawn(key=stranger, now_s=0.0),
        Refused(key=stranger, reason="r", now_s=0.0),
        Heartbeat(key=stranger, now_s=0.0),
        ConnectionClosed(key=stranger, now_s=0.0),
        described(key=stranger),
    )
    assert fold(*events) == EMPTY


TIMES = st.floats(0, 20)
EVENTS = st.one_of(
    st.builds(appeared, st.sampled_from([SIGHTING, PEER]), TIMES),
    st.builds(described, st.just(PROFILE), st.sampled_from([KEY, PEER.key]), TIMES),
    st.builds(Refused, key=st.just(KEY), reason=st.just("no"), now_s=TIMES),
    st.builds(Heartbeat, key=st.just(KEY), now_s=TIMES),
    st.builds(ConnectionClosed, key=st.just(KEY), now_s=TIMES),
    st.builds(Withdrawn, key=st.just(KEY), now_s=TIMES),
    st.builds(tick, TIMES),
)


@given(st.lists(EVENTS, max_size=20))
def test_whoever_is_alive_has_described_itself_and_whoever_is_not_says_why(
    events: list[Event],
) -> None:
    for member in fold(*events).members.values():
        is_alive = member.state is NodeState.ALIVE
        assert not is_alive or member.profile is not None
        assert is_alive == (member.reason == "")
