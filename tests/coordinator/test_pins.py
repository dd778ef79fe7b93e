"""What is left of a wish for a plan's shape once devices are lost."""

from __future__ import annotations

from typing import Any

import pytest

from edgepipe.coordinator.pins import fallbacks, pins_of
from edgepipe.coordinator.planning import How
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Strategy

Shape = tuple[tuple[str, ...] | None, int | None]


def shapes(how: How, *nodes: str) -> list[Shape]:
    found = list(fallbacks(how, nodes))
    assert all(each.split is None and each.pinned is None for each in found)
    return [(each.nodes, each.num_stages) for each in found]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        ({}, ""),
        ({"strategy": Strategy.EQUAL}, ""),
        ({"num_stages": 3}, "--stages 3"),
        ({"split": (10, 20), "nodes": ("a", "b", "c")}, "--split 10,20 --nodes a,b,c"),
    ],
)
def test_a_wish_is_told_as_it_was_written(wish: dict[str, Any], words: str) -> None:
    assert pins_of(How(**wish)) == words


def test_nothing_is_given_up_where_nothing_was_asked_for() -> None:
    assert shapes(How(), "a", "b") == []


def test_as_many_stages_as_devices_are_left() -> None:
    assert shapes(How(num_stages=3), "a", "b") == [(None, 2), (None, None)]
    assert shapes(How(num_stages=3), "a", "a", "b", "c") == [(None, 3), (None, None)]
    assert shapes(How(num_stages=3)) == [(None, None)]


def test_a_split_makes_as_many_stages_as_can_be() -> None:
    how = How(split=(10, 20), strategy=Strategy.MANUAL)
    assert shapes(how, "a", "b") == [(None, 2), (None, None)]
    assert {each.strategy for each in fallbacks(how, ["a"])} == {None}


def test_the_named_nodes_that_are_left_come_first_and_others_help_out_then() -> None:
    how = How(nodes=("a", "b", "c"))
    assert shapes(how, "b", "a", "d") == [(("a", "b"), None), (None, None)]
    assert shapes(how, "d") == [(None, None), (None, None)]


def test_formats_of_stages_that_are_no_more_become_the_largest_of_them() -> None:
    formats = (WeightFormat.INT4, WeightFormat.INT8)
    how = How(num_stages=2, weight_formats=formats)
    assert {each.weight_formats for each in fallbacks(how, ["a"])} == {(WeightFormat.INT8,)}
