"""A training run on a terminal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from rich.console import Console

from edgepipe.cli.answering import Shown
from edgepipe.cli.show import StepBars, errors, print_json
from edgepipe.cli.train_bars import LinkView, StageView, StepView, TrainBars
from edgepipe.coordinator.checkpoints import steps
from edgepipe.coordinator.json_lines import plain
from edgepipe.coordinator.launch import Running, Where
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.schedule_file import read_wish
from edgepipe.coordinator.train_asking import configured
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_job import Trained, TrainInterface, train
from edgepipe.coordinator.train_loop import StepDone
from edgepipe.coordinator.train_watching import StepWatch
from edgepipe.coordinator.watching import blame
from edgepipe.core.comparison import Comparison
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan_text import duration


async def run_training(
    config: TrainConfig, where: Where, how: How, *, resume: Path | None, json: bool
) -> None:
    """`edgepipe train`."""
    interface = ShownTraining(errors(), quiet=json)
    try:
        trained = await train(
            config,
            where,
            configured(how, config.plan),
            wish=read_wish(str(config.plan.schedule), "[plan] schedule"),
            resume=resume,
            interface=interface,
        )
    except asyncio.CancelledError:
        interface.interrupted(resume or config.output)
        raise
    finally:
        interface.stop()
    compared, miss = interface.compared(where.home)
    if json:
        print_json(document_of(trained, compared, miss))
    else:
        interface.tell(trained, compared, miss)


def document_of(trained: Trained, compared: Comparison | None, miss: str | None) -> dict[str, Any]:
    """The document of `edgepipe train --json`: the last line of metrics, and of the whole run."""
    median = {} if compared is None else {"median_step_s": compared.measured_s}
    return {
        **plain(trained.last),
        "run": str(trained.folder),
        **median,
        "misses": [] if miss is None else [miss],
    }


class ShownTraining(Shown, TrainInterface):
    """Plan and progress on a console."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        super().__init__(console, quiet=quiet)
        self._data = StepBars(console)
        self._out = console
        self._hushed = quiet
        self._live: TrainBars | None = None
        self._running: Running | None = None
        self._watch: StepWatch | None = None
        self._num_steps = 0
        self._step = 0

    def tokenising(self, done: int, total: int) -> None:
        """See TrainInterface."""
        if not self._hushed:
            self._data.reading(done, total)

    def starting(self, running: Running, config: TrainConfig) -> None:
        """See TrainInterface."""
        self._running, self._num_steps = running, config.steps
        self._watch = StepWatch(plan=running.plan)
        if not self._hushed:
            self._live = TrainBars(self._out)
            self._live.__enter__()

    def stepped(self, done: StepDone) -> None:
        """See train_loop.Shown."""
        self._step = done.metrics.step
        if self._watch is None:
            return
        self._watch.take(done)
        if self._live is not None:
            self._live.update(view_of(done, self._watch.plan, self._num_steps))

    def noted(self, text: str) -> None:
        """See train_loop.Shown."""
        if self._live is not None:
            self._live.note(text)
        else:
            self._out.print(text, markup=False, highlight=False, soft_wrap=True)

    def compared(self, home: Path) -> tuple[Comparison | None, str | None]:
        """The median step beside its prediction; where it was wrong, a sentence of why.

        The profile that is to blame is dropped.
        """
        found = self._watch.median if self._watch is not None else None
        if found is None or not found.missed or self._running is None:
            return found, None
        return found, blame(self._running, found, home)

    def tell(self, trained: Trained, compared: Comparison | None, miss: str | None) -> None:
        """The run's end, in a few lines."""
        if not trained.is_new:
            self._out.print(f"nothing was left to do: {trained.folder}", highlight=False)
            return
        last, losses = trained.last, ""
        for word, key in (("loss", "loss"), ("held out", "eval_loss")):
            if last.get(key) is not None:
                losses += f" {word} {last[key]:.4f},"
        self._out.print(
            f"step {last['step']}:{losses} the run is in {trained.folder}", highlight=False
        )
        if compared is not None:
            self._out.print(_of_steps(compared), style="dim", highlight=False)
        if miss is not None:
            self._out.print(miss, style="yellow", markup=False)

    def interrupted(self, run: Path) -> None:
        """Ctrl-C: how to go on, where a step was done."""
        self.stop()
        if self._step:
            where = "from the last checkpoint" if steps(run) else "from the start"
            self._out.print(
                f"stopped after step {self._step}: go on {where} by --resume {run}",
                highlight=False,
                soft_wrap=True,
            )

    def stop(self) -> None:
        """Take the progress away."""
        self.deployed()
        self._data.stop()
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None


def _of_steps(compared: Comparison) -> str:
    how = "slower" if compared.error < 0 else "faster"
    took, predicted = duration(compared.measured_s), duration(compared.predicted_s)
    off = f"{abs(compared.error):.0%} {how}"
    return f"a step took {took} at the median, {off} than the {predicted} that were predicted"


def view_of(done: StepDone, plan: Plan, num_steps: int) -> StepView:
    """What to show of a step."""
    metrics, reports = done.metrics, done.reports
    names = [f"{stage.node} {stage.device}" for stage in plan.stages]
    return StepView(
        step=metrics.step,
        num_steps=num_steps,
        loss=metrics.loss,
        tokens_per_s=metrics.tokens_per_s,
        step_s=metrics.step_s,
        bubble=metrics.bubble,
        eval_loss=metrics.eval_loss,
        predicted_step_s=metrics.predicted_step_s or None,
        stages=tuple(
            StageView(name=name, busy=min(1.0, report.busy_s / metrics.step_s))
            for name, report in zip(names, reports, strict=True)
        ),
        links=tuple(
            LinkView(
                sender=plan.stages[at].node,
                receiver=plan.stages[at + 1].node,
                forward_bytes=reports[at].sent_bytes,
                backward_bytes=reports[at + 1].returned_bytes,
            )
            for at in range(len(names) - 1)
        ),
    )
