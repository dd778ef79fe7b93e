"""The tokens that transformers gives in one process, however the model is cut."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from cluster.conftest import SMOLLM2, Cluster
from cluster.in_this_process import Here, commands
from cluster.tiny_folder import write_tiny

PROMPT = "Why is the sky blue? Explain it to a child."
NUM_TOKENS = 32
EXACT = ("--codec", "none", "--dtype", "float32", "--temperature", "0")


def expect_equal(whole: torch.nn.Module, prompt: list[int], tokens: list[int]) -> None:
    """CONTRACT, "Comparing": a difference counts only where the best two logits are apart."""
    ids = torch.tensor([[*prompt, *tokens]])
    with torch.inference_mode():
        logits = whole(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    best = logits.topk(2, dim=-1)
    for step, token in enumerate(tokens):
        gap = float(best.values[step, 0] - best.values[step, 1])
        assert token == int(best.indices[step, 0]) or gap <= 1e-4, f"token {step} differs"


CUTS = {
    "1 stage": ("--stages", 1),
    "2 stages": ("--stages", 2),
    "3 stages": ("--stages", 3),
    "4 stages": ("--stages", 4),
    "uneven": ("--split", "1,4,29"),
    "uneven, named": ("--split", "23", "--nodes", "dan,ada"),
}


SLOW_CUTS = {"1 stage", "2 stages", "4 stages", "uneven, named"}

here = pytest.fixture(commands)


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(cut, id=name, marks=[pytest.mark.slow] if name in SLOW_CUTS else [])
        for name, cut in CUTS.items()
    ],
)
def test_the_very_tokens(
    here: Here, cluster: Cluster, smollm2_whole: torch.nn.Module, cut: tuple[object, ...]
) -> None:
    words = ("run", SMOLLM2, "--prompt", PROMPT, "--max-tokens", NUM_TOKENS, *EXACT, *cut, "--json")
    answer = here(*words, *cluster.flags)
    assert answer.code == 0, answer.err
    found = answer.json
    assert found["codec"] == "none"
    assert len(found["token_ids"]) == NUM_TOKENS or found["finish_reason"] == "stop"
    expect_equal(smollm2_whole, found["prompt_token_ids"], found["token_ids"])
    layers = [stage["layers"] for stage in found["plan"]]
    assert layers[0][0] == 0
    assert layers[-1][1] == 30
    assert all(one[1] == two[0] for one, two in pairwise(layers))


def test_every_worker_stays_within_its_memory(here: Here, cluster: Cluster) -> None:
    words = ("run", SMOLLM2, "--prompt", PROMPT, "--max-tokens", 4, *EXACT, "--json")
    stages = here(*words, "--strategy", "equal", *cluster.flags).json["plan"]
    assert len(stages) == 4
    for stage in stages:
        allowed = stage["baseline_bytes"] + 1.3 * stage["weight_bytes"] + (64 << 20)
        assert stage["peak_bytes"] <= allowed, stage


def test_a_seed_gives_the_same_answer_again(here: Here, cluster: Cluster) -> None:
    words = ("run", SMOLLM2, "--prompt", PROMPT, "--max-tokens", 12, "--temperature", 1.2)
    words = (*words, "--top-p", 0.95, "--top-k", 50, "--json", *cluster.flags)
    one, two = (here(*words, "--seed", 7, "--stages", n).json for n in (2, 3))
    other = here(*words, "--seed", 8, "--stages", 2).json
    assert one["token_ids"] == two["token_ids"]
    assert one["seed"] == 7
    assert other["token_ids"] != one["token_ids"]


def test_a_stop_string_ends_the_text_before_it(here: Here, cluster: Cluster) -> None:
    words = ("run", SMOLLM2, "--prompt", PROMPT, "--max-tokens", 16, "--temperature", 0, "--json")
    text = here(*words, *cluster.flags).json["text"]
    stop = text[20:26]
    stopped = here(*words, "--stop", stop, *cluster.flags).json
    assert stopped["text"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.slow
def test_the_answer_streams_to_standard_output_and_the_rest_to_standard_error(
    here: Here, cluster: Cluster
) -> None:
    words = ("run", SMOLLM2, "--prompt", PROMPT, "--max-tokens", 16, "--temperature", 0)
    shown = cluster.run(*words)
    assert shown.out.strip() == here(*words, "--json", *cluster.flags).json["text"].strip()
    assert "tokens/s" in shown.err


def test_chat_remembers_what_was_said(cluster: Cluster) -> None:
    talk = cluster.run(
        *("chat", SMOLLM2, "--max-tokens", 12, "--temperature", 0, "--context", 512),
        stdin="My name is Ada.\nWhat is my name?\n",
    )
    assert talk.code == 0, talk.err
    assert len(talk.out.strip().splitlines()) >= 2
    assert talk.err.count("12 tokens, ") == 2


@pytest.mark.parametrize("stages", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_int8_moves_the_logits_by_at_most_2_percent(
    here: Here, cluster: Cluster, stages: int
) -> None:
    words = ("--codec", "int8", "--dtype", "float32", "--stages", stages, "--json")
    found = here("verify", SMOLLM2, *words, *cluster.flags).json
    assert found["ok"]
    assert 0 < found["logit_error"] <= 0.02


def test_no_codec_moves_them_by_rounding_alone(here: Here, cluster: Cluster) -> None:
    words = ("--codec", "none", "--dtype", "float32", "--stages", 3, "--json")
    found = here("verify", SMOLLM2, *words, *cluster.flags).json
    assert found["ok"]
    assert found["max_logit_difference"] <= 1e-3


@pytest.mark.parametrize("codec", ["none", "int8"])
def test_a_training_step_is_that_of_one_process(
    here: Here, cluster: Cluster, tmp_path: Path, codec: str
) -> None:
    model, prompt = write_tiny(tmp_path / "tiny"), " ".join(f"w{i % 7}" for i in range(13))
    words = ("--codec", codec, "--dtype", "float32", "--stages", 3, "--train", "--json")
    done = here("verify", model, "--prompt", prompt, *words, *cluster.flags)
    assert done.code == 0, done.err
    found = done.json
    assert found["ok"]
    bound = 1e-4 if codec == "none" else 0.05
    assert 0 < found["gradient_error"] <= found["worst_gradient_error"] <= bound
    assert 0 <= found["loss_error"] <= bound
    assert found["worst_gradient"].startswith("model.")
