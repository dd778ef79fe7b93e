"""Tables of what the rest of a pipeline costs, several kinds of cost at once."""

from __future__ import annotations

import numpy as np
import pytest
from drawn_networks import lone_devices

from edgepipe.core import steps as steps_module
from edgepipe.core.bands import Range, Spectrum
from edgepipe.core.goal import Throughput
from edgepipe.core.graph import graph_of
from edgepipe.core.problem import Problem, Traffic
from edgepipe.core.steps import steps_of

LAYERS = 6


def problem() -> Problem:
    """Three devices with memory for four layers each; something goes back."""
    places = np.arange(LAYERS + 1)
    return Problem(
        devices=lone_devices(40, 40, 40),
        item_s=np.array([0.0, *[1.0] * LAYERS, 0.5]) * np.array([1.0, 2.0, 3.0])[:, None],
        stage_bytes=10 * np.maximum(places - places[:, None], 0),
        link_bytes_per_s=np.full((3, 3), 1e9),
        link_latency_s=np.full((3, 3), 0.5),
        traffic=Traffic(frame_bytes=0, return_bytes=0),
        goal=Throughput(num_groups=2, group_size=1),
    )


@pytest.mark.parametrize("cells", [1, 1_000_000])
def test_kinds_of_cost_are_the_same_at_once_and_one_by_one(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "_CELLS_AT_ONCE", cells)
    graph = graph_of(problem())
    spectrum = Spectrum.of(graph)
    bands = spectrum.bands(Range(0, len(spectrum.values)))
    steps = steps_of(graph, (0,), bands, (1, 2))
    kinds = [graph.stage_s[..., None] * np.linspace(1, by, len(bands.floors)) for by in (1, 2, 3)]
    found = steps.several(kinds, graph.hop_s, graph.back_s[:, 0])
    assert len(found) == len(kinds)
    for table, kind in zip(found, kinds, strict=True):
        assert np.isfinite(table).any()
        np.testing.assert_array_equal(table, steps.tables(kind, graph.hop_s, graph.back_s[:, 0])[1])
    assert not steps.several([], graph.hop_s, graph.back_s[:, 0])
