"""Records to JSON and back. (tests/discovery/test_record.py has the other record's name.)"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.record import from_json, to_json


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    name: str
    weight: float = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    count: int
    ok: bool
    colour: Colour
    leaves: tuple[Leaf, ...]
    sizes: dict[str, int]
    root: Leaf | None = None
    notes: tuple[str, ...] = field(default_factory=lambda: ("new",))


TREE = Tree(
    count=3,
    ok=True,
    colour=Colour.BLUE,
    leaves=(Leaf(name="a"), Leaf(name="b", weight=2.0)),
    sizes={"x": 1},
    root=Leaf(name="r"),
)
DOCUMENT = {
    "count": 3,
    "ok": True,
    "colour": "blue",
    "leaves": [{"name": "a", "weight": 1.5}, {"name": "b", "weight": 2.0}],
    "sizes": {"x": 1},
    "root": {"name": "r", "weight": 1.5},
    "notes": ["new"],
}


def test_a_record_is_a_plain_document() -> None:
    assert to_json(TREE) == DOCUMENT
    assert from_json(Tree, json.loads(json.dumps(DOCUMENT))) == TREE


def test_a_tuple_of_records_is_a_list() -> None:
    assert to_json(TREE.leaves) == DOCUMENT["leaves"]


TEXT = st.text(max_size=5)
LEAVES = st.builds(Leaf, name=TEXT, weight=st.floats(allow_nan=False))


@given(
    st.builds(
        Tree,
        count=st.integers(),
        ok=st.booleans(),
        colour=st.sampled_from(Colour),
        leaves=st.lists(LEAVES, max_size=3).map(tuple),
        sizes=st.dictionaries(TEXT, st.integers(), max_size=3),
        root=st.none() | LEAVES,
        notes=st.lists(TEXT, max_size=3).map(tuple),
    )
)
def test_every_record_comes_back_through_text(tree: Tree) -> None:
    assert from_json(Tree, json.loads(json.dumps(to_json(tree)))) == tree


def test_a_newer_writers_fields_are_ignored_and_an_older_ones_get_their_defaults() -> None:
    newer = {**DOCUMENT, "later": [1], "root": {"name": "r", "later": {}}}
    assert from_json(Tree, newer) == TREE
    older = {key: value for key, value in DOCUMENT.items() if key not in {"root", "notes"}}
    assert from_json(Tree, older).root is None
    assert from_json(Tree, older).notes == ("new",)


def test_a_whole_number_is_a_float_but_not_the_other_way_round() -> None:
    leaf = from_json(Leaf, {"name": "a", "weight": 2})
    assert (leaf.weight, type(leaf.weight)) == (2.0, float)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"count": "3"}, ".count is not of type int"),
        ({"count": 3.0}, ".count is not of type int"),
        ({"count": True}, ".count is not of type int"),
        ({"count": None}, ".count is not of type int"),
        ({"ok": 1}, ".ok is not of type bool"),
        ({"colour": "green"}, ".colour is not one of red, blue"),
        ({"colour": ["red"]}, ".colour is not one of red, blue"),
        ({"leaves": {}}, ".leaves is not a list"),
        ({"leaves": "ab"}, ".leaves is not a list"),
        ({"leaves": [{"name": "a"}, 7]}, ".leaves[1] is not an object"),
        ({"leaves": [{"name": "a"}, {}]}, ".leaves[1].name is missing"),
        ({"leaves": [{"name": "a", "weight": "1"}]}, ".leaves[0].weight is not of type float"),
        ({"leaves": [{"name": "a", "weight": 10**400}]}, ".leaves[0].weight is too large"),
        ({"sizes": []}, ".sizes is not an object"),
        ({"sizes": {"x": "1"}}, ".sizes.x is not of type int"),
        ({"root": []}, ".root is not an object"),
    ],
)
def test_the_first_field_that_is_wrong_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 -- the whole sentence is compared
        from_json(Tree, {**DOCUMENT, **changes})
    assert str(refused.value) == sentence


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_what_is_no_object_is_no_record(document: Any) -> None:
    with pytest.raises(ValueError, match=r"^the document is not an object$"):
        from_json(Tree, document)
    with pytest.raises(ValueError, match=r"^the cache is not an object$"):
        from_json(Tree, document, "the cache")
