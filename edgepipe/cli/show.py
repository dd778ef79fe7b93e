"""Where things are shown: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
)


def errors() -> Console:
    """The console for progress and notes; rich honours NO_COLOR."""
    return Console(stderr=True)


def print_json(document: Any) -> None:
    """The one document of `--json`."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


class StepBars:
    """Progress bars of what comes before a plan: measuring and searching; they vanish after."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._is_over = False

    def measuring(self, what: str, done: int, total: int) -> None:
        """See coordinator.surveying.Measuring."""
        self._show(f"measuring {what}", done, total)

    def reading(self, done_bytes: int, total_bytes: int) -> None:
        """The model's files, read once to name their parts."""
        self._show("reading the model", done_bytes, total_bytes)

    def searching(self, done: int, total: int) -> None:
        """See coordinator.launch.Planning."""
        self._show("searching for the best plan", done, total)

    def stop(self) -> None:
        """Take the bars away, for good: a search that was given up may go on telling."""
        self._is_over = True
        self._progress.stop()

    def _show(self, what: str, done: int, total: int) -> None:
        if not total or self._is_over:
            return
        self._progress.start()
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(escape(what), total=total)
        task = self._tasks[what]
        self._progress.update(task, completed=done, total=total, visible=done < total)


class DeployBars:
    """Progress bars of a deployment, one per stage; they vanish when it runs."""

    def __init__(self, console: Console, names: list[str]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            console=console,
            transient=True,
        )
        self._names = names
        self._tasks: dict[tuple[str, int], TaskID] = {}

    def start(self) -> None:
        """Show them."""
        self._progress.start()

    def stop(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def sending(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """See coordinator.progress.Progress."""
        self._show("sending to", stage, self._names[stage], done_bytes, total_bytes)

    def loading(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        """See coordinator.progress.Progress."""
        self._show("loading on", stage, self._names[stage], done_bytes, total_bytes)

    def _show(self, verb: str, stage: int, name: str, done: int, total: int) -> None:
        if not total:
            return
        key = (verb, stage)
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(f"{verb} {name}", total=total)
        self._progress.update(self._tasks[key], completed=done, total=total)
