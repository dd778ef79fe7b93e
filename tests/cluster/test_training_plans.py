"""`edgepipe train` by another schedule, and by a saved plan, over real agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.conftest import Cluster, Command
from cluster.in_this_process import Here, commands
from cluster.training_runs import MICROBATCHES, Course, Run, course
from equivalence.tiny_models import CONFIGS, random_model

here = pytest.fixture(commands)
GPIPE = ("--set", 'plan.schedule="gpipe"', "--set", "steps=3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Course:
    model = random_model(CONFIGS["llama, untied, grouped queries"])
    return course(tmp_path_factory.mktemp("course"), model)


def train(here: Here, cluster: Cluster, tiny: Course, output: Path, *flags: object) -> Command:
    words = (*GPIPE, "--set", f"output={output}", *flags)
    return here("train", tiny.full, *words, "--json", *cluster.flags)


def test_a_saved_plan_is_run_with_the_codec_that_is_named_and_no_other_setting(
    here: Here, cluster: Cluster, tiny: Course, tmp_path: Path
) -> None:
    done = train(here, cluster, tiny, tmp_path / "first", "--stages", 2)
    assert done.code == 0, done.err
    first = Run(path=tmp_path / "first")
    assert [stage["inflight"] for stage in first.stages] == [MICROBATCHES] * 2
    assert all(line["predicted_step_s"] > 0 for line in first.metrics)

    plan = ("--plan", first.path / "plan.json")
    done = train(here, cluster, tiny, tmp_path / "again", *plan, "--codec", "int4")
    assert done.code == 0, done.err
    again = Run(path=tmp_path / "again")
    above, below = again.stages
    assert (above["codec_forward"], below["codec_backward"]) == ("int4", "int8")
    assert [line["loss"] for line in again.metrics] != [line["loss"] for line in first.metrics]
    assert all(line["predicted_step_s"] == 0 for line in again.metrics)

    done = train(here, cluster, tiny, tmp_path / "no", *plan, "--set", "batch.microbatches=2")
    assert done.code == 2
    assert "[batch] microbatches is 2, and 3 in the plan" in done.err
    assert not (tmp_path / "no").exists()
