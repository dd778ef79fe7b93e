from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgepipe.coordinator.run_folder import RunFolder, create_run, open_run
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.core.step_decision import Decided, Verdict
from edgepipe.errors import EdgepipeError, RunFolderError, UsageError

CONFIG = "steps = 3\n"
PLAN = {"schema": 1, "stages": []}


def metrics(step: int, **more: Any) -> StepMetrics:
    return StepMetrics(
        step=step,
        loss=2.5,
        grad_norm=1.0,
        learning_rate=1e-4,
        num_tokens=512,
        tokens_per_s=400.0,
        step_s=1.28,
        predicted_step_s=1.2,
        bubble=0.1,
        bytes=4096,
        **more,
    )


def decided(step: int, verdict: Verdict = Verdict.APPLY) -> Decided:
    return Decided(
        order=step,
        step=step,
        verdict=verdict,
        learning_rate=1e-4,
        scale=0.5,
        loss_scale=1.0,
        grad_norm=2.0 if verdict is Verdict.APPLY else math.inf,
        reason="" if verdict is Verdict.APPLY else "it broke",
    )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with create_run(tmp_path / "runs" / "cat", config=CONFIG, plan=PLAN) as run:
        yield run


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {".lock"}


def test_a_new_run_has_its_files(run: RunFolder) -> None:
    assert names(run.path) == {
        "config.toml",
        "plan.json",
        "metrics.jsonl",
        "journal.jsonl",
        "checkpoints",
    }
    assert run.config_file.read_text() == CONFIG
    assert json.loads(run.plan_file.read_text()) == PLAN


def test_a_line_of_metrics_has_the_contracts_keys(run: RunFolder) -> None:
    run.add_metrics(metrics(1))
    run.add_metrics(metrics(2, eval_loss=2.4, more={"guard": {"loss_change": 0.001}}))
    first, second = run.metrics.read()
    assert list(first) == [
        "step",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "tokens_per_s",
        "step_s",
        "predicted_step_s",
        "bubble",
        "bytes",
    ]
    assert (second["eval_loss"], second["guard"]) == (2.4, {"loss_change": 0.001})


def test_a_decision_is_journaled(run: RunFolder) -> None:
    run.add_decision(decided(1))
    run.add_decision(decided(2, Verdict.SKIP))
    first, second = run.journal.read()
    assert first == {
        "step": 1,
        "decision": "apply",
        "learning_rate": 1e-4,
        "scale": 0.5,
        "loss_scale": 1.0,
        "grad_norm": 2.0,
    }
    assert (second["decision"], second["grad_norm"], second["reason"]) == ("skip", None, "it broke")


def test_a_decision_is_on_the_disk_before_it_is_sent(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(run.journal.path.read_bytes()))
    run.add_decision(decided(1))
    assert len(synced) == 1
    assert json.loads(synced[0])["step"] == 1


def test_a_run_that_goes_on_forgets_later_steps(run: RunFolder) -> None:
    for step in range(1, 6):
        run.add_decision(decided(step))
        run.add_metrics(metrics(step))
    run.close()
    with open_run(run.path) as again:
        again.cut_back(3)
        again.add_decision(decided(4))
        again.add_metrics(metrics(4))
        for lines in (again.metrics, again.journal):
            assert [line["step"] for line in lines.read()] == [1, 2, 3, 4]


def test_a_folder_with_something_in_it_is_refused(run: RunFolder) -> None:
    run.close()
    with pytest.raises(UsageError, match=f"not empty: .* --resume {run.path}"):
        create_run(run.path, config=CONFIG, plan=PLAN)
    assert run.config_file.read_text() == CONFIG


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    with create_run(tmp_path, config=CONFIG, plan=PLAN) as run:
        assert run.config_file.is_file()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        create_run(tmp_path / "out", config=CONFIG, plan=PLAN)
    with pytest.raises(RunFolderError, match="Not a directory"):
        create_run(tmp_path / "out" / "run", config=CONFIG, plan=PLAN)


def test_one_process_at_a_time_goes_on_with_a_run(run: RunFolder) -> None:
    with pytest.raises(UsageError, match="another process trains in"):
        open_run(run.path)
    run.close()
    open_run(run.path).close()


def test_only_a_run_can_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: config\.toml is missing"):
        open_run(tmp_path)


def test_what_cannot_be_written_leaves_no_half_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EdgepipeError, match="the disk is full"):
            create_run(tmp_path / "out", config=CONFIG, plan=PLAN)
    assert names(tmp_path / "out") == set()
    create_run(tmp_path / "out", config=CONFIG, plan=PLAN).close()


def test_a_plan_that_cannot_be_replaced_stays(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"plan\.json cannot be written: the disk is full"):
        run.write_plan({"schema": 2})
    assert json.loads(run.plan_file.read_text()) == PLAN
    assert names(run.path) >= {"plan.json"}
    assert not [name for name in names(run.path) if name.startswith(".")]
