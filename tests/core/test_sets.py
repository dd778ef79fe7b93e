"""The sets of free devices that a pipeline may have left, place by place."""

from __future__ import annotations

from itertools import accumulate, permutations, product

import numpy as np

from edgepipe.core.problem import Bools
from edgepipe.core.sets import Sets

HOLDS = (3, 2, 4, 1)
LAYERS = 7


def stages() -> Bools:
    """Every stage of at most so many layers as its device holds [D, L, L]."""
    places = np.arange(LAYERS + 1)
    spans = places - places[:, None]
    return np.stack([(spans > 0) & (spans <= holds) for holds in HOLDS])


def names(sets: Sets) -> list[str]:
    """The sets in their order, by their devices."""
    return ["".join(map(str, np.array(sets.tracked)[having])) for having in sets.having.T]


def test_sets_come_in_the_order_of_what_they_hold() -> None:
    sets = Sets.of(stages(), (1, 2, 3), untracked=())
    assert names(sets) == ["", "3", "1", "13", "2", "23", "12", "123"]
    assert names(sets)[int(sets.at(np.array([0b1010]))[0])] == "13"
    assert [names(sets)[at] for at in sets.without[sets.tracked.index(2)]] == [
        *("2", "23", "12", "123"),
        *("", "3", "1", "13"),
    ]


def test_early_many_are_free_and_late_few() -> None:
    sets = Sets.of(stages(), (1, 2, 3), untracked=())
    assert names(sets)[sets.ended[3]] == ["2", "23", "12", "123"]
    assert names(sets)[sets.ended[6]] == ["3", "1", "13", "2"]
    assert names(sets)[sets.begun[3][2]] == ["", "3", "1", "13"]


def test_no_pipeline_has_others_left() -> None:
    sets = Sets.of(stages(), (1, 2, 3), untracked=())
    for devices in permutations((1, 2, 3)):
        for spans in product(*(range(1, HOLDS[device] + 1) for device in (0, *devices))):
            ends = list(accumulate(spans))
            if LAYERS not in ends:
                continue
            for at, place in enumerate(ends[: ends.index(LAYERS)]):
                free = sum(1 << device for device in devices[at:])
                assert_inside(sets, sets.ended[place], free)
                follows = devices[at]
                assert_inside(sets, sets.begun[place][follows], free - (1 << follows))


def assert_inside(sets: Sets, window: slice, free: int) -> None:
    assert window.start <= sets.at(np.array([free]))[0] < window.stop


def test_where_others_may_follow_any_set_may_be_left() -> None:
    sets = Sets.of(stages(), (1, 2), untracked=(3,))
    windows = [*sets.ended, *(each for row in sets.begun for each in row)]
    assert all(each == slice(0, 4) for each in windows)
