from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, RenderableType

from edgepipe.cli.bars import Bar, Part, Strip


def render(renderable: RenderableType, width: int) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, legacy_windows=False).print(renderable)
    return stream.getvalue().removesuffix("\n")


def strip(first: int, end: int, num_layers: int) -> Strip:
    return Strip(
        first=first, end=end, num_layers=num_layers, embedding=first == 0, head=end == num_layers
    )


def test_a_cell_a_layer_where_there_is_room() -> None:
    assert render(strip(0, 2, 6), width=8) == "E━━╌╌╌╌ "
    assert render(strip(2, 5, 6), width=8) == " ╌╌━━━╌ "
    assert render(strip(5, 6, 6), width=8) == " ╌╌╌╌╌━H"
    assert render(strip(6, 6, 6), width=8) == " ╌╌╌╌╌╌H"


@given(num_layers=st.integers(1, 200), width=st.integers(3, 40), data=st.data())
def test_every_stage_with_a_layer_is_seen(num_layers: int, width: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, num_layers - 1))
    end = data.draw(st.integers(first + 1, num_layers))
    drawn = render(strip(first, end, num_layers), width)
    assert "━" in drawn
    assert len(drawn) == min(width, 32)


def test_parts_fill_their_share() -> None:
    parts = (Part(size=2, sign="█", style="blue"), Part(size=1, sign="▒", style="cyan"))
    assert render(Bar(parts=parts, whole=8), width=8) == "██▒·····"


@given(
    sizes=st.lists(st.integers(0, 1 << 50), max_size=4),
    whole=st.integers(0, 1 << 50),
    width=st.integers(1, 40),
)
def test_a_bar_keeps_its_width_however_much_it_holds(
    sizes: list[int], whole: int, width: int
) -> None:
    parts = tuple(Part(size=size, sign="█", style="red") for size in sizes)
    drawn = render(Bar(parts=parts, whole=whole), width)
    assert len(drawn) == min(width, 24)
    assert ("·" in drawn) <= (sum(sizes) < max(whole, 1))
