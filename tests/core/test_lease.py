from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from edgepipe.core.lease import (
    Granted,
    Lease,
    LeaseState,
    Refused,
    acquire,
    current,
    expire,
    next_expiry_in_s,
    release,
    renew,
)
from edgepipe.core.profile import DeviceId
from edgepipe.errors import LeaseLost, UsageError

CPU, GPU = DeviceId("cpu"), DeviceId("cuda:0")
FREE = LeaseState(devices=(CPU, GPU), last_fence=41)


def granted(
    state: LeaseState, job: str = "job-1", *, device: DeviceId = CPU, now_s: float = 0.0
) -> tuple[LeaseState, int]:
    state, answer = acquire(state, device=device, job=job, holder="ann@attic", now_s=now_s)
    assert isinstance(answer, Granted)
    return state, answer.fence


def test_a_grant_carries_on_from_the_last_persisted_fence() -> None:
    state, fence = granted(FREE)
    assert (fence, state.last_fence) == (42, 42)


def test_a_second_job_is_told_who_holds_what_and_since_when() -> None:
    state, _ = granted(FREE)
    after, answer = acquire(state, device=CPU, job="job-2", holder="bob@desk", now_s=3.0)
    assert after == state
    assert isinstance(answer, Refused)
    assert (answer.view.job, answer.view.expires_in_s) == ("job-1", 27.0)
    assert answer.sentence == (
        "cpu is leased to job job-1 of ann@attic, renewed 3 s ago: "
        "wait until it ends, or leave this device out."
    )


def test_each_device_has_a_lease_of_its_own() -> None:
    state, _ = granted(FREE)
    state, fence = granted(state, "job-2", device=GPU)
    assert fence == 43


def test_the_same_job_supersedes_its_own_fence() -> None:
    state, old = granted(FREE)
    state, answer = acquire(state, device=CPU, job="job-1", holder="ann@attic", now_s=1.0)
    assert isinstance(answer, Granted)
    assert answer.superseded is not None
    assert answer.superseded.fence == old
    with pytest.raises(LeaseLost, match=r"Fence 42 on cpu was superseded by 43 \(job job-1 of"):
        renew(state, device=CPU, fence=old, progress=1, now_s=1.0)


def test_renewal_keeps_a_lease_and_its_progress_past_its_first_ttl() -> None:
    state, fence = granted(FREE)
    state, lease = renew(state, device=CPU, fence=fence, progress=17, now_s=29.0)
    assert lease.progress == 17
    assert current(state, device=CPU, fence=fence, now_s=58.9) == lease
    assert next_expiry_in_s(state, 30.0) == 29.0


def test_an_expired_lease_is_reported_once_and_free_for_others() -> None:
    state, fence = granted(FREE)
    with pytest.raises(LeaseLost, match="expired 1 s ago because it was not renewed"):
        renew(state, device=CPU, fence=fence, progress=0, now_s=31.0)
    state, expired = expire(state, 31.0)
    assert [event.lease.fence for event in expired] == [fence]
    assert expire(state, 31.0) == (state, ())
    granted(state, "job-2", now_s=31.0)


def test_a_grant_over_an_expired_lease_says_which_one_it_ended() -> None:
    state, fence = granted(FREE)
    _, answer = acquire(state, device=CPU, job="job-2", holder="bob@desk", now_s=30.0)
    assert isinstance(answer, Granted)
    assert answer.superseded is not None
    assert answer.superseded.fence == fence


def test_a_released_fence_is_gone() -> None:
    state, fence = granted(FREE)
    state = release(state, device=CPU, fence=fence, now_s=1.0)
    assert next_expiry_in_s(state, 1.0) is None
    with pytest.raises(LeaseLost, match="Fence 42 holds no lease on cpu any more"):
        release(state, device=CPU, fence=fence, now_s=1.0)


@pytest.mark.parametrize("ttl_s", [0.0, 0.99, 300.1, -1.0, math.inf, math.nan])
def test_a_ttl_out_of_bounds_is_refused(ttl_s: float) -> None:
    with pytest.raises(UsageError, match="A lease lasts 1 to 300 s"):
        acquire(FREE, device=CPU, job="j", holder="h", now_s=0.0, ttl_s=ttl_s)


@pytest.mark.parametrize("label", ["", "x" * 129, "two\nlines"])
def test_labels_are_bounded(label: str) -> None:
    with pytest.raises(UsageError, match="job is 1 to 128 printable"):
        acquire(FREE, device=CPU, job=label, holder="h", now_s=0.0)
    with pytest.raises(UsageError, match="holder is 1 to 128 printable"):
        acquire(FREE, device=CPU, job="j", holder=label, now_s=0.0)


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no device 'mps' here, only cpu, cuda:0"):
        acquire(FREE, device=DeviceId("mps"), job="j", holder="h", now_s=0.0)


class Leases(RuleBasedStateMachine):
    """Jobs that acquire, renew, release and die, against a model of who may compute."""

    fences: Bundle[tuple[DeviceId, int]] = Bundle("fences")

    def __init__(self) -> None:
        super().__init__()
        self.state = FREE
        self.now_s = 0.0
        self.granted: list[int] = []
        self.holders: dict[DeviceId, tuple[str, int, float]] = {}

    def holds(self, device: DeviceId, fence: int) -> bool:
        holder = self.holders.get(device)
        return holder is not None and holder[1] == fence and self.now_s < holder[2]

    @rule(
        target=fences,
        device=st.sampled_from([CPU, GPU]),
        job=st.sampled_from(["a", "b", "c"]),
        ttl_s=st.integers(1, 300),
    )
    def acquire(self, device: DeviceId, job: str, ttl_s: int) -> object:
        holder = self.holders.get(device)
        is_free = holder is None or holder[0] == job or holder[2] <= self.now_s
        self.state, answer = acquire(
            self.state, device=device, job=job, holder="h", now_s=self.now_s, ttl_s=ttl_s
        )
        if not is_free:
            assert isinstance(answer, Refused)
            return multiple()
        assert isinstance(answer, Granted)
        assert all(answer.fence > earlier for earlier in self.granted)
        self.granted.append(answer.fence)
        self.holders[device] = (job, answer.fence, self.now_s + ttl_s)
        return (device, answer.fence)

    @rule(held=fences, progress=st.integers(0, 1000))
    def renew(self, held: tuple[DeviceId, int], progress: int) -> None:
        device, fence = held
        if not self.holds(device, fence):
            with pytest.raises(LeaseLost):
                renew(self.state, device=device, fence=fence, progress=progress, now_s=self.now_s)
            return
        self.state, lease = renew(
            self.state, device=device, fence=fence, progress=progress, now_s=self.now_s
        )
        self.holders[device] = (lease.job, fence, self.now_s + lease.ttl_s)

    @rule(held=fences)
    def release(self, held: tuple[DeviceId, int]) -> None:
        device, fence = held
        if not self.holds(device, fence):
            with pytest.raises(LeaseLost):
                release(self.state, device=device, fence=fence, now_s=self.now_s)
            return
        self.state = release(self.state, device=device, fence=fence, now_s=self.now_s)
        del self.holders[device]

    @rule(seconds=st.integers(0, 400))
    def time_passes(self, seconds: int) -> None:
        self.now_s += seconds

    @rule()
    def expire(self) -> None:
        self.state, expired = expire(self.state, self.now_s)
        over = {fence for _, fence, end_s in self.holders.values() if end_s <= self.now_s}
        assert {event.lease.fence for event in expired} == over
        self.holders = {d: h for d, h in self.holders.items() if h[2] > self.now_s}

    @rule(held=fences)
    def compute(self, held: tuple[DeviceId, int]) -> None:
        device, fence = held
        if self.holds(device, fence):
            lease = current(self.state, device=device, fence=fence, now_s=self.now_s)
            assert isinstance(lease, Lease)
        else:
            with pytest.raises(LeaseLost):
                current(self.state, device=device, fence=fence, now_s=self.now_s)

    @invariant()
    def one_holder_per_device(self) -> None:
        assert all(lease.device == device for device, lease in self.state.leases.items())
        live = [fence for _, fence, end_s in self.holders.values() if end_s > self.now_s]
        known = {lease.fence for lease in self.state.leases.values()}
        assert known.issuperset(live)

    def teardown(self) -> None:
        self.state, _ = expire(self.state, self.now_s)
        live = {fence for _, fence, end_s in self.holders.values() if end_s > self.now_s}
        assert {lease.fence for lease in self.state.leases.values()} == live


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
