"""A training run as it goes on: a live view on a terminal, a line every few steps elsewhere.

step 20 of 60  ━━━━━━━━················  2 min left
loss 2.3104  held out 2.5210  312 tokens/s  1.31 s per step (predicted 1.25 s)  bubble 12 %
  desk cuda:0  █████████████████████···  87 %
  attic cpu    ██████████··············  43 %
  desk to attic  1.1 MiB down  1.1 MiB up
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgepipe.cli.bars import Bar, Part
from edgepipe.core.plan_text import duration
from edgepipe.core.size import human_size

_WHOLE = 1000
_LATEST = 0.2
"""What the latest step counts for in the time that is left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageView:
    """A stage, and the share of the step in which it computed, from 0 to 1."""

    name: str
    busy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """A boundary's bytes of a step: activations from sender to receiver, gradients back."""

    sender: str
    receiver: str
    forward_bytes: int
    backward_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepView:
    """What to show of a step that is done; steps count from 1, losses are in nats."""

    step: int
    num_steps: int
    loss: float
    tokens_per_s: float
    step_s: float
    bubble: float
    eval_loss: float | None = None
    predicted_step_s: float | None = None
    stages: tuple[StageView, ...] = ()
    links: tuple[LinkView, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Over all links."""
        return sum(link.forward_bytes + link.backward_bytes for link in self.links)


class TrainBars:
    """Shows a run on a console; a context manager. Without a terminal, a line `every` steps."""

    def __init__(self, console: Console, *, every: int = 10) -> None:
        self._console = console
        self._every = every
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            self._live = Live(console=console, auto_refresh=False, transient=True)
        self._eval_loss: float | None = None
        self._step_s: float | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, view: StepView) -> None:
        """A step is done."""
        before_s = view.step_s if self._step_s is None else self._step_s
        self._step_s = before_s + _LATEST * (view.step_s - before_s)
        if view.eval_loss is not None:
            self._eval_loss = view.eval_loss
        left_s = (view.num_steps - view.step) * self._step_s
        if self._lasts(view):
            self.note(step_line(view, left_s))
        if self._live is not None:
            self._live.update(step_view(view, left_s, self._eval_loss), refresh=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _lasts(self, view: StepView) -> bool:
        """Whether a step gets a line that stays: on a terminal only one that evaluated."""
        if view.eval_loss is not None or self._live is not None:
            return view.eval_loss is not None
        return view.step % self._every == 0 or view.step in {1, view.num_steps}


def step_line(view: StepView, left_s: float) -> str:
    """A step in one line."""
    parts = (*_figures(view, view.eval_loss), f"{human_size(view.num_bytes)} sent")
    return f"step {view.step} of {view.num_steps}: {', '.join(parts)}, {_left(left_s)}"


def step_view(view: StepView, left_s: float, eval_loss: float | None) -> RenderableType:
    """A step with its bars; `eval_loss` is the latest."""
    progress = Table.grid(padding=(0, 2))
    bar = Bar(parts=(Part(size=view.step, sign="━", style="cyan"),), whole=view.num_steps)
    progress.add_row(f"step {view.step} of {view.num_steps}", bar, _left(left_s))
    figures = Text("  ".join(_figures(view, eval_loss)))
    return Group(progress, figures, _stages(view), _links(view))


def _figures(view: StepView, eval_loss: float | None) -> Iterator[str]:
    yield f"loss {view.loss:.4f}"
    if eval_loss is not None:
        yield f"held out {eval_loss:.4f}"
    yield f"{view.tokens_per_s:.0f} tokens/s"
    predicted = view.predicted_step_s
    beside = f" (predicted {duration(predicted)})" if predicted is not None else ""
    yield f"{duration(view.step_s)} per step{beside}"
    yield f"bubble {view.bubble:.0%}".replace("%", " %")


def _stages(view: StepView) -> Table:
    table = Table.grid(padding=(0, 2))
    for stage in view.stages:
        busy = min(max(stage.busy, 0.0), 1.0)
        bar = Bar(parts=(Part(size=round(busy * _WHOLE), sign="█", style="green"),), whole=_WHOLE)
        table.add_row(Text(f"  {stage.name}"), bar, f"{busy:.0%}".replace("%", " %"))
    return table


def _links(view: StepView) -> Table:
    table = Table.grid(padding=(0, 2))
    for link in view.links:
        table.add_row(
            Text(f"  {link.sender} to {link.receiver}"),
            f"{human_size(link.forward_bytes)} down",
            f"{human_size(link.backward_bytes)} up",
        )
    return table


def _left(seconds: float) -> str:
    """What is left of a run: seconds, minutes or hours."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s left"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min left" if hours else f"{minutes} min left"
