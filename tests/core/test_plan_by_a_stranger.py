"""A script that knows docs/plan.md and no edgepipe comes to the plan's own figures."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from drawn_networks import Training, any_training, on
from drawn_surveys import drawn
from hypothesis import example, given, settings
from strangers_script import recompute, replay

from edgepipe.core.hop import Frame, hop
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.problem import Nic
from edgepipe.core.schedule import Action, Kind, one_f_one_b
from edgepipe.core.simulate import Boundary
from edgepipe.core.work import Objective, Strategy
from edgepipe.errors import PlanError

SCRIPT = Path(__file__).with_name("strangers_script.py")
FIGURES = ("tokens_per_s", "ttft_s", "step_s")


def planned(seed: int, objective: Objective, *, tight: bool = False) -> Plan:
    asked = drawn(seed, objective, tight=tight)
    return plan(asked, strategy=list(Strategy)[seed % 3], rivals=())


@pytest.mark.parametrize("objective", Objective)
@pytest.mark.parametrize("seed", range(12))
def test_the_script_comes_to_the_same(seed: int, objective: Objective) -> None:
    try:
        made = planned(seed, objective, tight=seed % 4 == 3)
    except PlanError:
        return
    found = recompute(json.loads(json.dumps(made.to_json())))
    assert found["memory_bytes"] == [stage.memory_bytes for stage in made.stages]
    assert found["feasible"] == made.feasible
    if made.predicted is None:
        return
    for figure in FIGURES:
        expected = getattr(made.predicted, figure)
        assert found.get(figure) == (expected and pytest.approx(expected, rel=1e-9)), figure


def lists_of(training: Training) -> list[list[tuple[Any, ...]]]:
    """A step as the script takes it: what each stage does, how long, after what, over which hop."""

    def hop_of(sender: int, receiver: int, frame: Frame) -> tuple[float, float, Any]:
        places = [training.stages[stage].place for stage in (sender, receiver)]
        made = hop(*places, frame, training.nics)
        return made.num_bytes, made.latency_s, made.occupied

    def task(action: Action) -> tuple[Any, ...]:
        stage, is_forward = action.stage, action.kind is Kind.FORWARD
        costs, boundaries = training.stages[stage], training.boundaries
        seconds = costs.forward_s if is_forward else costs.backward_s
        sender = stage - 1 if is_forward else stage + 1
        if not 0 <= sender < len(training.stages):
            return action, seconds, None, None
        frame = boundaries[sender].down if is_forward else boundaries[stage].up
        return action, seconds, replace(action, stage=sender), hop_of(sender, stage, frame)

    return [[task(action) for action in actions] for actions in training.schedule.stages]


def crowded_chain() -> Training:
    """Four hosts, each frame longer on a NIC than a stage computes: those between wait at two."""
    training = on(one_f_one_b(4, 8), forward_s=1.0, backward_s=2.0)
    frame = Frame(num_bytes=4, bytes_per_s=2.0, latency_s=0.1)
    nic = Nic(send_bytes_per_s=2.0, receive_bytes_per_s=2.0)
    hosts = [stage.place.host for stage in training.stages]
    boundaries = [Boundary(down=frame, up=frame)] * 3
    return replace(training, boundaries=boundaries, nics=dict.fromkeys(hosts, nic))


@settings(max_examples=100, deadline=None)
@given(any_training(shares=True))
@example(crowded_chain())
def test_the_script_replays_any_step(training: Training) -> None:
    """NICs and media are crowded here far more often than in the plans above."""
    spans = replay(lists_of(training))
    for stage in training.run().timeline.stages:
        for span in stage:
            assert spans[span.action] == pytest.approx((span.begin_s, span.end_s))


def test_the_cases_hold_pipelines_that_fit_and_some_that_do_not() -> None:
    made = [planned(seed, Objective.LATENCY, tight=seed % 4 == 3) for seed in range(12)]
    assert any(each.feasible and len(each.stages) > 2 for each in made)
    assert not all(each.feasible for each in made)


def test_the_script_reads_a_file_and_imports_no_edgepipe(tmp_path: Path) -> None:
    imported = {
        name.name if isinstance(node, ast.Import) else str(node.module)
        for node in ast.walk(ast.parse(SCRIPT.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported == {"__future__", "heapq", "itertools", "json", "pathlib", "sys"}
    made = planned(0, Objective.PREFILL)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(made.to_json()))
    ran = subprocess.run(
        [sys.executable, "-I", SCRIPT, path], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(ran.stdout)["memory_bytes"] == [each.memory_bytes for each in made.stages]
