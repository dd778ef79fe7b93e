"""SmolLM2 over real agents comes to what a plain loop does, by all weights and by adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cluster.conftest import SMOLLM2, Cluster
from cluster.in_this_process import Here, commands
from cluster.training_runs import (
    Course,
    Expected,
    Run,
    adapted,
    expect_equal,
    expected,
    write_course,
)
from transformers import AutoTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
here = pytest.fixture(commands)

WORDS = (
    "The lamp was lit at dusk and burned all night.",
    "Fog came in from the north.",
    "Two ships passed before the bell was rung, and neither of them answered.",
    "The keeper slept by day.",
    "Oil was low, so the wick was trimmed.",
    "Rain.",
    "A gull struck the glass, which held, and by morning the wind had turned to the west.",
    "Nothing to report.",
    "The boat brought letters and flour.",
    "At four the light failed for a minute.",
    "Snow lay on the gallery.",
    "The sea was calm as far as one could see.",
    "Spring tide.",
)
"""Of 13 texts, an epoch is a batch of 8 and one of 5."""


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory, smollm2_file: Path) -> Course:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    texts = [[*tokenizer(words)["input_ids"], tokenizer.eos_token_id] for words in WORDS]
    return write_course(tmp_path_factory.mktemp("course"), texts, WORDS, model=SMOLLM2)


@pytest.fixture(scope="module")
def plainly(lessons: Course, smollm2_whole: torch.nn.Module) -> Expected:
    torch.set_num_threads(1)
    return expected(smollm2_whole, lessons)


def train(here: Here, cluster: Cluster, config: Path, path: Path, num_stages: int) -> Run:
    words = ("--set", f"output={path}", "--set", "run.checkpoint_every=0")
    done = here("train", config, *words, "--stages", num_stages, "--json", *cluster.flags)
    assert done.code == 0, done.err
    return Run(path=path)


@pytest.mark.parametrize("num_stages", [1, 3])
def test_all_weights(  # noqa: PLR0917 -- fixtures
    here: Here,
    cluster: Cluster,
    lessons: Course,
    plainly: Expected,
    tmp_path: Path,
    num_stages: int,
) -> None:
    run = train(here, cluster, lessons.full, tmp_path / "run", num_stages)
    assert len(run.stages) == num_stages
    expect_equal(run, plainly)


def test_adapters(
    here: Here, cluster: Cluster, lessons: Course, smollm2_whole: Any, tmp_path: Path
) -> None:
    run, one = (
        train(here, cluster, lessons.lora, tmp_path / str(num_stages), num_stages)
        for num_stages in (3, 1)
    )
    want = expected(adapted(smollm2_whole, run.weights(0)), lessons)
    expect_equal(run, want)
    expect_equal(one, want)
