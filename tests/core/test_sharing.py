"""Frames under way at once take what there is, no more, and divide it as TCP connections do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.hop import Hop
from edgepipe.core.sharing import crowded, speeds


def frame(num_bytes: float = 100, **seconds: float) -> Hop:
    return Hop(num_bytes=num_bytes, occupied=seconds)


def near(*found: float) -> object:
    return pytest.approx(list(found))


def test_alone_a_frame_is_as_fast_as_alone() -> None:
    assert speeds([frame(link=2.0, to_a=4.0)]) == [1.0]
    assert speeds([]) == []


def test_frames_that_meet_nowhere_do_not_slow_each_other_down() -> None:
    assert speeds([frame(to_a=4.0), frame(to_b=1.0)]) == [1.0, 1.0]


def test_a_nic_with_room_for_both_is_not_crowded() -> None:
    both = [frame(slow=4.0, to_a=2.0), frame(weak=3.0, to_a=1.0)]
    assert speeds(both) == [1.0, 1.0]
    assert crowded(both) == frozenset()


def test_a_nic_gives_equal_bytes() -> None:
    assert speeds([frame(100, to_a=1.0), frame(300, to_a=3.0)]) == near(0.5, 0.5)
    assert speeds([frame(100, to_a=1.0)] * 4) == near(0.25, 0.25, 0.25, 0.25)


def test_what_a_slow_link_leaves_of_a_nic_is_the_others() -> None:
    assert speeds([frame(link=4.0, to_a=1.0), frame(to_a=1.0)]) == near(1.0, 0.75)


def test_a_frame_that_crosses_a_medium_twice_takes_twice_as_much_of_it() -> None:
    assert speeds([frame(medium=2.0), frame(medium=1.0)]) == near(2 / 3, 1 / 3)


def test_who_waits_in_two_queues_gets_half_of_who_waits_in_one() -> None:
    before, between, after = frame(a=1.0), frame(a=1.0, b=1.0), frame(b=1.0)
    assert speeds([before, between, after]) == near(2 / 3, 1 / 3, 2 / 3)


def test_a_nic_that_is_not_used_up_is_no_queue() -> None:
    trickle = frame(1, slow=1.0, b=0.01)
    assert speeds([frame(a=1.0, b=1.0), frame(a=1.0), trickle]) == near(0.5, 0.5, 1.0)


def test_what_one_resource_does_not_let_through_is_free_at_the_others() -> None:
    held = [frame(a=1.0, b=1.0), frame(a=1.0), frame(a=1.0), frame(b=1.0)]
    assert speeds(held) == near(0.2, 0.4, 0.4, 0.8)


NAMES = "abcde"
any_frame = st.builds(
    Hop,
    num_bytes=st.sampled_from([1.0, 3.0, 1000.0, 1e9]),
    occupied=st.dictionaries(st.sampled_from(NAMES), st.integers(1, 20).map(float), min_size=1),
)


@given(st.lists(any_frame, max_size=8))
def test_nothing_is_overloaded_and_no_frame_could_go_faster_alone(frames: list[Hop]) -> None:
    found = speeds(frames)
    used = {
        name: sum(
            speed * hop.shares.get(name, 0.0) for speed, hop in zip(found, frames, strict=True)
        )
        for name in NAMES
    }
    assert all(share <= 1 + 1e-6 for share in used.values())
    for speed, hop in zip(found, frames, strict=True):
        assert 0 < speed <= 1 + 1e-9
        assert speed > 1 - 1e-6 or any(used[name] > 1 - 1e-6 for name in hop.shares)


@given(st.lists(any_frame, max_size=8))
def test_the_order_says_nothing(frames: list[Hop]) -> None:
    backwards = speeds(frames[::-1])[::-1]
    assert speeds(frames) == pytest.approx(backwards)
