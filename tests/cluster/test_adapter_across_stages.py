"""`--adapter` and `export`, from the command line to the tokens, over real agents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cluster.conftest import Cluster
from cluster.in_this_process import Here, commands
from cluster.tiny_folder import write_tiny
from coordinator.trained_runs import adapter_of, write_run
from equivalence.adapted_models import write_adapter
from transformers import AutoModelForCausalLM

from edgepipe.core.training import Adapters

NUM_TOKENS = 12
TARGETS = ("q_proj", "o_proj", "down_proj")
ASK = (
    "--prompt", "w5 w6 w7", "--raw", "--max-tokens", NUM_TOKENS, "--codec", "none",
    "--dtype", "float32", "--temperature", 0, "--json",
)  # fmt: skip

here = pytest.fixture(commands)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return base.parent / "peft"


@pytest.fixture(scope="module")
def adapted(base: Path, adapter: Path) -> Any:
    return write_adapter(adapter, AutoModelForCausalLM.from_pretrained(base).eval(), *TARGETS)


@pytest.fixture(scope="module")
def run(base: Path, adapted: Any) -> Path:
    adapters = Adapters(rank=4, alpha=6.0, dropout=0.1, target_modules=TARGETS)
    folder, home = base.parent / "run", base.parent
    return write_run(folder, base, adapter_of(adapted), home=home, adapters=adapters)


def expect_tokens(whole: Any, found: Any) -> None:
    """CONTRACT, "Comparing"."""
    prompt, tokens = found["prompt_token_ids"], found["token_ids"]
    assert len(tokens) == NUM_TOKENS
    with torch.inference_mode():
        logits = whole(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0]
    best = logits[len(prompt) - 1 : -1].topk(2, dim=-1)
    apart = (best.values[:, 0] - best.values[:, 1]) > 1e-4
    equal = best.indices[:, 0] == torch.tensor(tokens)
    assert (equal | ~apart).all()
    assert apart.any()


@pytest.mark.parametrize("stages", [1, 2])
def test_the_very_tokens_of_peft(  # noqa: PLR0917 -- fixtures
    here: Here, cluster: Cluster, base: Path, adapter: Path, adapted: Any, stages: int
) -> None:
    words = ("run", base, *ASK, "--stages", stages, *cluster.flags)
    plain = here(*words)
    answer = here(*words, "--adapter", adapter)
    assert answer.code == 0, answer.err
    expect_tokens(adapted, answer.json)
    assert plain.json["token_ids"] != answer.json["token_ids"]
    again = here(*words)  # what the stages have parked is not what is asked for now
    assert again.json["token_ids"] == plain.json["token_ids"]


def test_what_is_exported_is_run(  # noqa: PLR0917 -- fixtures
    here: Here, cluster: Cluster, base: Path, run: Path, adapted: Any, tmp_path: Path
) -> None:
    merged = here("export", run, "--output", tmp_path / "merged", "--merge", "--json")
    assert merged.code == 0, merged.err
    assert merged.json["kind"] == "model"
    assert merged.json["step"] == 60
    assert "model.safetensors" in merged.json["files"]
    words = (*ASK, "--stages", 2, *cluster.flags)
    expect_tokens(adapted, here("run", tmp_path / "merged", *words).json)
    told = here("export", run, "--output", tmp_path / "adapter")
    assert told.code == 0
    assert "The adapter of step 60 is in" in told.err
    expect_tokens(adapted, here("run", base, "--adapter", tmp_path / "adapter", *words).json)


REFUSED = {
    "a run that is none": (("export", "EMPTY", "--output", "NEW"), 1, "holds no checkpoint"),
    "an export over something": (("export", "RUN", "--output", "BASE"), 2, "is there already"),
    "a step that is none": (
        ("export", "RUN", "--output", "NEW", "--step", 7), 1, "choose one of 60",
    ),
    "a run without an output": (("export", "RUN"), 2, "--output"),
    "run with a run": (
        ("run", "BASE", "--prompt", "w1", "--adapter", "RUN"), 1, "with `edgepipe export`",
    ),
    "chat with nothing": (("chat", "BASE", "--adapter", "EMPTY"), 1, "adapter_config.json"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "code", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_use_is_one_sentence(  # noqa: PLR0917 -- fixtures
    here: Here, base: Path, run: Path, tmp_path: Path, words: tuple[Any, ...], code: int,
    sentence: str,
) -> None:  # fmt: skip
    names = {"EMPTY": tmp_path, "NEW": tmp_path / "new", "RUN": run, "BASE": base}
    done = here(*(names.get(word, word) for word in words))
    assert done.code == code
    assert done.err.startswith("edgepipe: ")
    assert sentence in done.sentence
    assert not (tmp_path / "new").exists()
