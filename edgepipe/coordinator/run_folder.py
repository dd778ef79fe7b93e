"""A run's folder: all that a training leaves behind, and goes on from.

RUN/
    config.toml  plan.json           what was asked for, and how it was shared out
    metrics.jsonl                    a line per step
    journal.jsonl                    a line per decision, on the disk before any stage hears of it
    loss.png  loss.svg
    checkpoints/step-000060/
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from edgepipe.coordinator.checkpoints import checkpoints_folder
from edgepipe.coordinator.json_lines import JsonLines, writing
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.core.step_decision import Decided
from edgepipe.errors import RunFolderError, UsageError
from edgepipe.home import write_atomically

_LOCK = ".lock"


class RunFolder:
    """The folder of a run, which one process at a time writes; a context manager, which frees it.

    All methods block on the disk, and raise RunFolderError where it cannot be written: what was
    written before stays whole.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        self._lock = lock
        self.path = path
        self.config_file = path / "config.toml"
        self.plan_file = path / "plan.json"
        self.metrics = JsonLines(path=path / "metrics.jsonl")
        self.journal = JsonLines(path=path / "journal.jsonl", synced=True)
        self.checkpoints = checkpoints_folder(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process have it."""
        self._lock.release()

    def write_config(self, text: str) -> None:
        """Replace config.toml."""
        with writing(self.config_file):
            write_atomically(self.config_file, text.encode())

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Replace plan.json by a plan's JSON."""
        with writing(self.plan_file):
            write_atomically(self.plan_file, (json.dumps(plan, indent=2) + "\n").encode())

    def add_metrics(self, metrics: StepMetrics) -> None:
        """Add a step's line."""
        self.metrics.append(metrics.to_json())

    def add_decision(self, decided: Decided) -> None:
        """Journal a decision: it is on the disk once this returns."""
        line = {
            "step": decided.step,
            "decision": decided.verdict.value,
            "learning_rate": decided.learning_rate,
            "scale": decided.scale,
            "loss_scale": decided.loss_scale,
            "grad_norm": decided.grad_norm,
        }
        self.journal.append(line | ({"reason": decided.reason} if decided.reason else {}))

    def cut_back(self, step: int) -> None:
        """Forget the metrics and decisions of steps after `step`, which is gone on from."""
        self.metrics.cut_back(step)
        self.journal.cut_back(step)


def create_run(path: Path, *, config: str, plan: Mapping[str, Any]) -> RunFolder:
    """A new run in a folder that is empty or not there; `config` is TOML, `plan` a plan's JSON.

    Raises UsageError where something is there, RunFolderError where it cannot be written.
    """
    check_new(path)
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    run = RunFolder(path, _locked(path))
    try:
        _fill(run, config, plan)
    except BaseException:
        run.close()
        raise
    return run


def check_new(path: Path) -> None:
    """Raise UsageError where something is there already, RunFolderError where we may not write."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file: set output to a new folder")
    if path.is_dir() and _entries(path):
        raise UsageError(
            f"{path} is not empty: set output to a new folder, or go on with the run that is there "
            f"by --resume {path}"
        )
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    why = "" if there.is_dir() else " (Not a directory)"
    if why or not os.access(there, os.W_OK | os.X_OK):
        raise RunFolderError(f"{path} cannot be written{why}: set output to another folder")


def check_run(path: Path) -> None:
    """Raises UsageError where a folder holds no run."""
    missing = [each for each in ("config.toml", "plan.json") if not (path / each).is_file()]
    if missing:
        raise UsageError(f"{path} holds no run: {missing[0]} is missing: give a run's output")


def open_run(path: Path) -> RunFolder:
    """The run of a folder, to go on with it.

    Raises UsageError where there is none or another process goes on with it, RunFolderError where
    it cannot be written.
    """
    check_run(path)
    run = RunFolder(path, _locked(path))
    try:
        for lines in (run.metrics, run.journal):
            with writing(lines.path):
                lines.path.touch()
    except BaseException:
        run.close()
        raise
    return run


def _fill(run: RunFolder, config: str, plan: Mapping[str, Any]) -> None:
    """Write a new run's files, or none of them; somebody may have been faster."""
    if _entries(run.path):
        raise UsageError(f"{run.path} was filled by another process: set output to a new folder")
    try:
        with writing(run.path):
            run.checkpoints.mkdir()
            run.metrics.path.touch()
            run.journal.path.touch()
        run.write_plan(plan)
        run.write_config(config)
    except BaseException:
        _empty(run.path)
        raise


def _entries(path: Path) -> list[Path]:
    """What stands in a folder, but for the lock."""
    with writing(path, what="read"):
        return [entry for entry in path.iterdir() if entry.name != _LOCK]


def _empty(path: Path) -> None:
    """Take away what `_fill` wrote, as far as that is possible."""
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != _LOCK:
            entry.unlink(missing_ok=True)


def _locked(path: Path) -> FileLock:
    lock = FileLock(path / _LOCK, timeout=0, thread_local=False)
    with writing(path):
        try:
            lock.acquire()
        except Timeout:  # an OSError
            raise UsageError(
                f"another process trains in {path}: wait for it, or set another output"
            ) from None
    return lock
