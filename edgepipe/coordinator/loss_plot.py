"""The loss over the steps, as a picture: loss.png and loss.svg of a run's folder."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepipe.coordinator.json_lines import writing
from edgepipe.home import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 2000
"""More of them are not seen, and make the SVG large."""
_METADATA = {"png": {"Software": "edgepipe"}, "svg": {"Creator": "edgepipe", "Date": None}}

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Curve:
    """Losses by step [n], in nats."""

    steps: Floats
    losses: Floats


def draw_loss(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss.png and loss.svg anew from the lines of metrics.jsonl.

    Blocks for some tenths of a second. Raises RunFolderError where they cannot be written.
    """
    figure = _figure(lines)
    for kind in ("png", "svg"):
        picture = io.BytesIO()
        figure.savefig(picture, format=kind, metadata=_METADATA[kind])
        path = folder / f"loss.{kind}"
        with writing(path):
            write_atomically(path, picture.getvalue())


def curve(lines: Sequence[Mapping[str, Any]], key: str) -> Curve:
    """The finite losses under a key, at most MAX_POINTS of them, each a mean of equally many."""
    points = [(line["step"], line[key]) for line in lines if _is_loss(line.get(key))]
    found = np.array(points, dtype=float).reshape(-1, 2)
    width = -(-len(found) // MAX_POINTS) or 1
    starts = np.arange(0, len(found), width)
    counts = np.diff([*starts, len(found)])[:, None]
    means = np.add.reduceat(found, starts, axis=0) / counts if len(found) else found
    return Curve(steps=means[:, 0], losses=means[:, 1])


def smoothed(losses: Floats) -> Floats:
    """The exponential moving average over about a twentieth of the curve, without a bias [n]."""
    share = 2 / (1 + max(len(losses) / 20, 1))
    result = np.empty_like(losses)
    total = weight = 0.0
    for at, loss in enumerate(losses):
        total += share * (loss - total)
        weight += share * (1 - weight)
        result[at] = total / weight
    return result


def _is_loss(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _figure(lines: Sequence[Mapping[str, Any]]) -> Figure:
    from matplotlib.figure import Figure  # noqa: PLC0415 -- half a second, for training alone

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    _draw_training(axes, curve(lines, "loss"))
    _draw_held_out(axes, curve(lines, "eval_loss"))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.grid(alpha=0.3)
    if axes.has_data():
        axes.legend(frameon=False)
    return figure


def _draw_training(axes: Axes, found: Curve) -> None:
    if not len(found.steps):
        return
    axes.plot(found.steps, found.losses, color="tab:blue", alpha=0.3, linewidth=1)
    axes.plot(found.steps, smoothed(found.losses), color="tab:blue", label="training, smoothed")


def _draw_held_out(axes: Axes, found: Curve) -> None:
    if not len(found.steps):
        return
    axes.plot(found.steps, found.losses, "o-", color="tab:orange", label="held out", markersize=4)
