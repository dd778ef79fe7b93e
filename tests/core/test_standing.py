"""When a server plans anew and when it moves: events in, instructions out, no clock."""

from __future__ import annotations

import math

import pytest

from edgepipe.core.standing import (
    MAX_BACK_OFF_S,
    MIN_BACK_OFF_S,
    MOVE_EVERY_S,
    STEADY_S,
    Admit,
    BackOff,
    Close,
    Closed,
    Devices,
    Drop,
    Found,
    Hold,
    Instruction,
    Loaded,
    Looked,
    Lost,
    MakePlan,
    Missing,
    NotFound,
    Offer,
    Open,
    Opened,
    Standing,
    Started,
    Waited,
    Why,
    back_off_s,
    gain,
)

LATER = 1000.0


def devices(*nodes: str) -> Devices:
    return frozenset((node, "cpu") for node in nodes)


def offer(*used: str, seconds: float | None = 1.0, seen: str = "", as_asked: bool = True) -> Offer:
    return Offer(
        used=devices(*used),
        considered=devices(*used, *seen.split()),
        seconds=seconds,
        as_asked=as_asked,
    )


def serving(now_s: float = 0.0, *used: str, running: int = 0, as_asked: bool = True) -> Standing:
    """A server with a pipeline over two devices, opened at a time."""
    standing = Standing()
    assert standing.handle(Started(now_s=now_s)) == [MakePlan(why=Why.STARTED)]
    found = offer(*(used or ("ada", "bob")), as_asked=as_asked)
    assert standing.handle(Found(offer=found, now_s=now_s)) == [Open()]
    assert standing.handle(Opened(now_s=now_s)) == [Admit()]
    if running:
        assert standing.handle(Loaded(num_running=running, now_s=now_s)) == []
    return standing


def joined(standing: Standing, better: Offer, now_s: float) -> list[Instruction]:
    """A third device appears, and is planned with."""
    looked = Looked(devices=devices("ada", "bob", "cyd"), now_s=now_s)
    assert standing.handle(looked) == [MakePlan(why=Why.JOINED)]
    return standing.handle(Found(offer=better, now_s=now_s))


# ------------------------------------------------------------------------------------- a loss


def test_a_lost_pipeline_is_planned_anew_at_once() -> None:
    standing = serving()
    assert standing.handle(Lost(reason="bob is gone", now_s=LATER)) == [
        Missing(reason="bob is gone", is_news=True),
        MakePlan(why=Why.LOST),
    ]
    assert standing.handle(Found(offer=offer("ada"), now_s=LATER)) == [Open()]
    assert standing.handle(Opened(now_s=LATER)) == [Admit()]


def test_without_a_plan_it_tries_again_and_says_why_once() -> None:
    standing = serving()
    standing.handle(Lost(reason="bob is gone", now_s=LATER))
    for attempt, is_news in ((1, True), (2, False), (3, False)):
        assert standing.handle(NotFound(reason="it does not fit", now_s=LATER)) == [
            Missing(reason="it does not fit", is_news=is_news),
            BackOff(attempt=attempt),
        ]
        assert standing.handle(Waited(now_s=LATER)) == [MakePlan(why=Why.LOST)]
    assert standing.handle(NotFound(reason="nobody is here", now_s=LATER)) == [
        Missing(reason="nobody is here", is_news=True),
        BackOff(attempt=4),
    ]


def test_a_device_that_appears_ends_the_wait() -> None:
    standing = serving()
    standing.handle(Lost(reason="all gone", now_s=LATER))
    standing.handle(NotFound(reason="nobody is here", considered=devices("cyd"), now_s=LATER))
    assert standing.handle(Looked(devices=devices("cyd"), now_s=LATER)) == []
    back = Looked(devices=devices("bob"), now_s=LATER)
    assert standing.handle(back) == [MakePlan(why=Why.LOST)]
    assert standing.handle(Waited(now_s=LATER)) == []
    assert standing.handle(back) == []


def test_what_breaks_at_once_again_is_waited_for() -> None:
    standing = serving()
    standing.handle(Lost(reason="bob is gone", now_s=LATER))
    standing.handle(Found(offer=offer("ada"), now_s=LATER))
    broken = Lost(reason="ada is full", now_s=LATER)
    assert standing.handle(broken) == [
        Missing(reason="ada is full", is_news=True),
        BackOff(attempt=2),
    ]
    standing.handle(Waited(now_s=LATER))
    standing.handle(Found(offer=offer("ada"), now_s=LATER))
    standing.handle(Opened(now_s=LATER))
    shaky = Lost(reason="ada is gone", now_s=LATER + STEADY_S - 1)
    assert standing.handle(shaky)[-1] == BackOff(attempt=3)


def test_a_pipeline_that_stood_for_long_begins_the_waits_anew() -> None:
    standing = serving()
    for round_ in range(3):
        now_s = LATER * (round_ + 1)
        assert standing.handle(Lost(reason="gone", now_s=now_s))[-1] == MakePlan(why=Why.LOST)
        standing.handle(Found(offer=offer("ada"), now_s=now_s))
        standing.handle(Opened(now_s=now_s))


@pytest.mark.parametrize(
    ("attempt", "least_s", "most_s"), [(1, 1, 1.25), (2, 1.5, 2.5), (9, 11, 15)]
)
def test_waits_grow_and_are_jittered(attempt: int, least_s: float, most_s: float) -> None:
    drawn = [back_off_s(attempt, draw) for draw in (0.0, 0.25, 0.5, 0.75, 0.999)]
    assert least_s <= min(drawn) <= max(drawn) <= most_s
    assert drawn == sorted(drawn)
    assert all(MIN_BACK_OFF_S <= wait_s <= MAX_BACK_OFF_S for wait_s in drawn)


# ------------------------------------------------------------------------------------- a move


def test_an_idle_server_moves_to_a_better_plan() -> None:
    standing = serving()
    assert joined(standing, offer("ada", "cyd", seconds=0.97), 1.0) == [Hold(), Close()]
    assert standing.handle(Closed(now_s=2.0)) == [Open()]
    assert standing.handle(Opened(now_s=3.0)) == [Admit()]
    assert standing.current == offer("ada", "cyd", seconds=0.97)


def test_a_device_that_makes_nothing_better_is_planned_for_once() -> None:
    standing = serving()
    assert joined(standing, offer("ada", "bob", seen="cyd"), 1.0) == [Drop()]
    two, three = devices("ada", "bob"), devices("ada", "bob", "cyd")
    assert standing.handle(Looked(devices=three, now_s=2.0)) == []
    assert standing.handle(Looked(devices=two, now_s=3.0)) == []
    assert standing.handle(Looked(devices=three, now_s=4.0)) == [MakePlan(why=Why.JOINED)]
    assert standing.handle(Looked(devices=two, now_s=5.0)) == [], "it is leased to be measured"
    failed = NotFound(reason="it cannot be measured", considered=three, now_s=6.0)
    assert standing.handle(failed) == []
    assert standing.handle(Looked(devices=three, now_s=7.0)) == []


def test_a_small_gain_waits_until_nobody_runs() -> None:
    standing = serving(running=2)
    assert joined(standing, offer("cyd", seconds=0.95), LATER) == []
    assert standing.handle(Loaded(num_running=1, now_s=LATER)) == []
    assert standing.handle(Loaded(num_running=0, now_s=LATER)) == [Hold(), Close()]


def test_a_large_gain_has_those_who_run_end_and_nobody_start() -> None:
    standing = serving(running=2)
    assert joined(standing, offer("cyd", seconds=0.8), LATER) == [Hold()]
    assert standing.handle(Loaded(num_running=1, now_s=LATER)) == []
    assert standing.handle(Loaded(num_running=0, now_s=LATER)) == [Hold(), Close()]


def test_a_busy_server_moves_at_most_once_a_minute() -> None:
    standing = serving()
    joined(standing, offer("ada", "bob", "cyd", seconds=0.8), LATER)
    standing.handle(Closed(now_s=LATER))
    standing.handle(Opened(now_s=LATER))
    standing.handle(Loaded(num_running=1, now_s=LATER))
    four = devices("ada", "bob", "cyd", "dan")
    standing.handle(Looked(devices=four, now_s=LATER))
    best = offer(*["ada", "bob", "cyd", "dan"], seconds=0.4)
    assert standing.handle(Found(offer=best, now_s=LATER)) == []
    assert standing.handle(Looked(devices=four, now_s=LATER + MOVE_EVERY_S - 1)) == []
    assert standing.handle(Looked(devices=four, now_s=LATER + MOVE_EVERY_S)) == [Hold()]


def test_a_candidate_whose_device_went_is_dropped_and_admission_goes_on() -> None:
    standing = serving(running=1)
    joined(standing, offer("ada", "cyd", seconds=0.5, seen="bob"), LATER)
    assert standing.is_holding
    gone = Looked(devices=devices("ada", "bob"), now_s=LATER)
    assert standing.handle(gone) == [Drop(), Admit()]
    assert standing.handle(Loaded(num_running=0, now_s=LATER)) == []


def test_a_loss_drops_what_is_planned_beside() -> None:
    standing = serving()
    standing.handle(Looked(devices=devices("ada", "bob", "cyd"), now_s=1.0))
    assert standing.handle(Lost(reason="gone", now_s=LATER)) == [
        Drop(),
        Missing(reason="gone", is_news=True),
        MakePlan(why=Why.LOST),
    ]


def test_a_pipeline_that_breaks_while_it_is_left_changes_nothing() -> None:
    standing = serving()
    joined(standing, offer("ada", "cyd", seconds=0.5), 1.0)
    assert standing.handle(Lost(reason="bob is gone", now_s=2.0)) == [Open()]


def test_the_shape_that_was_asked_for_comes_before_speed() -> None:
    asked, free = offer("ada", "bob", seconds=2.0), offer("ada", seconds=1.0, as_asked=False)
    assert gain(free, asked) == math.inf
    assert gain(asked, free) == -math.inf
    standing = serving(0.0, "ada", "bob", as_asked=False, running=1)
    assert joined(standing, offer("ada", "bob", "cyd", seconds=3.0), LATER) == [Hold()]


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_nothing_is_gained_where_nothing_is_predicted(seconds: float | None) -> None:
    assert gain(offer("ada"), offer("bob", seconds=seconds)) == 0
    assert gain(offer("ada", seconds=seconds), offer("bob")) == 0
