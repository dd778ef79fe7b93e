"""Frames leave in order on each way, and their ends move as others begin and end."""

from __future__ import annotations

from math import inf

from edgepipe.core.hop import Hop
from edgepipe.core.network import Network, Sent

AIR = Hop(num_bytes=1, occupied={"medium": 1.0})
WIRE = Hop(num_bytes=1, occupied={"wire": 2.0})
THERE, BACK, APART = (0, 1), (1, 0), (1, 2)


def network() -> Network[str]:
    return Network({THERE: AIR, BACK: AIR, APART: WIRE})


def sent(frame: str, begin_s: float, end_s: float) -> Sent[str]:
    return Sent(frame=frame, begin_s=begin_s, end_s=end_s)


def test_the_end_of_what_shares_with_nothing_is_known_at_once() -> None:
    made = network()
    assert made.send(APART, "a", 1.0) == sent("a", 1.0, 3.0)
    assert made.send(APART, "b", 1.5) == sent("b", 3.0, 5.0)
    assert made.next_s == inf


def test_what_could_share_leaves_as_an_event() -> None:
    made = network()
    assert made.send(THERE, "a", 1.0) is None
    assert made.next_s == 2.0
    assert made.pop() == sent("a", 1.0, 2.0)
    assert made.next_s == inf


def test_who_comes_later_slows_the_first_down_and_has_the_rest_alone() -> None:
    made = network()
    made.send(THERE, "a", 0.0)
    made.send(BACK, "b", 0.5)
    assert [made.pop(), made.pop()] == [sent("a", 0.0, 1.5), sent("b", 0.5, 2.0)]


def test_the_next_of_a_queue_begins_when_the_first_has_left() -> None:
    made = network()
    made.send(THERE, "a", 0.0)
    made.send(THERE, "b", 0.0)
    made.send(BACK, "c", 0.0)
    assert made.pop() == sent("a", 0.0, 2.0)
    assert made.pop() == sent("c", 0.0, 2.0)
    assert made.pop() == sent("b", 2.0, 3.0)
