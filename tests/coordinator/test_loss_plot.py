from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.coordinator.loss_plot import MAX_POINTS, curve, draw_loss, smoothed
from edgepipe.errors import RunFolderError


def run_of(num_steps: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "eval_loss": 3.0}]
    for step in range(1, num_steps + 1):
        held_out = {"eval_loss": 3 / math.sqrt(step)} if step % 10 == 0 else {}
        lines.append({"step": step, "loss": 3 / math.sqrt(step), **held_out})
    return lines


@pytest.mark.parametrize("num_steps", [0, 1, 60, 20_000])
def test_a_run_of_any_length_is_a_picture(tmp_path: Path, num_steps: int) -> None:
    draw_loss(tmp_path, run_of(num_steps))
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert ET.fromstring((tmp_path / "loss.svg").read_bytes()).tag.endswith("svg")
    assert (tmp_path / "loss.svg").stat().st_size < 500_000
    assert {path.name for path in tmp_path.iterdir()} == {"loss.png", "loss.svg"}


def test_a_run_without_a_line_is_a_picture(tmp_path: Path) -> None:
    draw_loss(tmp_path, [])
    assert (tmp_path / "loss.png").is_file()


def test_the_same_run_gives_the_same_png(tmp_path: Path) -> None:
    draw_loss(tmp_path, run_of(30))
    first = (tmp_path / "loss.png").read_bytes()
    draw_loss(tmp_path, run_of(30))
    assert (tmp_path / "loss.png").read_bytes() == first


def test_no_global_state_of_matplotlib_is_used(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    draw_loss(tmp_path, run_of(3))
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_a_folder_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunFolderError, match=r"loss\.png cannot be written"):
        draw_loss(tmp_path / "run", run_of(3))


def test_skipped_steps_have_no_point() -> None:
    found = curve([{"step": 1, "loss": None}, {"step": 2, "loss": 1.5}, {"step": 3}], "loss")
    assert (found.steps.tolist(), found.losses.tolist()) == ([2.0], [1.5])


@given(num_steps=st.integers(0, 3 * MAX_POINTS))
def test_a_long_curve_keeps_its_mean_and_its_ends(num_steps: int) -> None:
    lines = [{"step": step, "loss": float(step)} for step in range(num_steps)]
    found = curve(lines, "loss")
    assert len(found.steps) == len(found.losses) <= MAX_POINTS
    assert found.losses.tolist() == found.steps.tolist()
    if num_steps:
        assert 0 <= found.steps[0] <= num_steps / MAX_POINTS + 1
        assert found.steps[-1] <= num_steps - 1


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=50))
def test_smoothing_stays_within_what_was_seen(losses: list[float]) -> None:
    seen = np.array(losses)
    curved = smoothed(seen)
    assert curved[0] == pytest.approx(losses[0], abs=1e-9)
    assert (curved >= np.minimum.accumulate(seen) - 1e-9).all()
    assert (curved <= np.maximum.accumulate(seen) + 1e-9).all()
