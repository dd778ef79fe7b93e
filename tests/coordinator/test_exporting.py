"""What is exported is what was trained, to whoever loads it with transformers and PEFT alone."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from coordinator.trained_runs import adapter_of, write_run
from equivalence.adapted_models import TARGETS, load_adapter, write_adapter, write_model
from equivalence.tiny_models import CONFIGS, random_model, random_tokens, reference_logits
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from edgepipe.coordinator.adapter import read_adapter
from edgepipe.coordinator.exporting import Exported, Kind, export
from edgepipe.coordinator.model_folder import shards_of, write_weights
from edgepipe.coordinator.models import resolve
from edgepipe.coordinator.safetensors_source import read_folder
from edgepipe.core.frame import DType
from edgepipe.core.training import Adapters
from edgepipe.engine.state_file import Described
from edgepipe.engine.torch.probe import model_shape
from edgepipe.errors import CheckpointError, DamagedWeights, ModelError, UsageError

TIED = "llama, tied"
MIXTRAL = {
    **CONFIGS["llama, untied, grouped queries"],
    "model_type": "mixtral",
    "num_local_experts": 3,
}


def export_run(tmp_path: Path, *, merge: bool = False, step: int | None = None) -> Exported:
    return export(
        tmp_path / "run", tmp_path / "out", home=tmp_path, step=step, merge=merge,
        progress=lambda _what, _done, _total: None,
    )  # fmt: skip


def lora_run(tmp_path: Path, kind: str, **changes: Any) -> Any:
    """A run that has trained adapters of a kind of model; returns the adapted model."""
    model = write_model(tmp_path / "model", kind)
    adapted = write_adapter(tmp_path / "peft", model, *TARGETS[kind])
    adapters = Adapters(rank=4, alpha=6.0, dropout=0.1, target_modules=TARGETS[kind])
    weights = adapter_of(adapted)
    write_run(
        tmp_path / "run", tmp_path / "model", weights, home=tmp_path, adapters=adapters, **changes
    )
    return adapted


def loaded(folder: Path) -> Any:
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told[each] for each in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


# ------------------------------------------------------------------------------------- adapters


@pytest.mark.parametrize("kind", TARGETS)
def test_an_adapter_is_the_very_one_that_peft_would_write(tmp_path: Path, kind: str) -> None:
    adapted = lora_run(tmp_path, kind)
    assert export_run(tmp_path).kind is Kind.ADAPTER
    ours, theirs = (
        json.loads((tmp_path / name / "adapter_config.json").read_text())
        for name in ("out", "peft")
    )
    assert ours.pop("base_model_name_or_path") == str(tmp_path / "model")
    del theirs["base_model_name_or_path"]
    for config in (ours, theirs):
        config["target_modules"].sort()
    assert ours == theirs
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("out", "peft")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tokens = random_tokens(12)
    expected = reference_logits(adapted, tokens)
    again = load_adapter(random_model(CONFIGS[kind]), tmp_path / "out")
    assert torch.equal(reference_logits(again, tokens), expected)


def test_an_exported_adapter_is_one_that_edgepipe_runs(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    export_run(tmp_path)
    shape = model_shape("tiny", resolve(str(tmp_path / "model"), home=tmp_path).config)
    assert read_adapter(tmp_path / "out", shape).scale == 1.5


# --------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("kind", TARGETS)
def test_a_merged_model_gives_the_logits_of_the_adapted_one(tmp_path: Path, kind: str) -> None:
    adapted = lora_run(tmp_path, kind)
    assert export_run(tmp_path, merge=True).kind is Kind.MODEL
    tokens = random_tokens(12)
    torch.testing.assert_close(
        reference_logits(loaded(tmp_path / "out"), tokens),
        reference_logits(adapted, tokens),
        atol=1e-4,
        rtol=0,
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_a_model_that_was_trained_in_full_has_every_new_weight(tmp_path: Path, kind: str) -> None:
    write_model(tmp_path / "model", kind)
    trained = random_model(CONFIGS[kind], seed=9)
    weights = dict(trained.named_parameters())
    write_run(tmp_path / "run", tmp_path / "model", weights, home=tmp_path, adapters=None)
    export_run(tmp_path)
    found = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.state_dict().items())


def test_experts_that_the_model_holds_as_one_are_saved_one_by_one(tmp_path: Path) -> None:
    base = random_model(MIXTRAL)
    base.save_pretrained(tmp_path / "model")
    trained = random_model(MIXTRAL, seed=9)
    weights = dict(trained.named_parameters())
    write_run(tmp_path / "run", tmp_path / "model", weights, home=tmp_path, adapters=None)
    export_run(tmp_path)
    saved = {tensor.name for tensor in read_folder(tmp_path / "out")}
    assert saved == {tensor.name for tensor in read_folder(tmp_path / "model")}
    found = loaded(tmp_path / "out").state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in trained.state_dict().items())


def test_a_tied_embedding_stays_tied(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    export_run(tmp_path, merge=True)
    assert "lm_head.weight" not in {tensor.name for tensor in read_folder(tmp_path / "out")}
    model = loaded(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_it_is_written_in_the_runs_type(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED, dtype=DType.BFLOAT16)
    export_run(tmp_path, merge=True)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert {tensor.dtype for tensor in read_folder(tmp_path / "out")} == {"BF16"}


def test_the_tokenizer_comes_along_and_nothing_else_does(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    for name in ("tokenizer.json", "tokenizer_config.json", "notes.txt"):
        (tmp_path / "model" / name).write_text("{}")
    export_run(tmp_path, merge=True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip


def test_a_gguf_is_dequantised_and_merged(tmp_path: Path, tiny_gguf: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModelForCausalLM.from_pretrained(
            tiny_gguf.parent, gguf_file=tiny_gguf.name, dtype=torch.float32
        )
    adapted = write_adapter(tmp_path / "peft", base, "q_proj", "down_proj")
    adapters = Adapters(rank=4, alpha=6.0, dropout=0.1, target_modules=("q_proj", "down_proj"))
    weights = adapter_of(adapted)
    write_run(tmp_path / "run", tiny_gguf, weights, home=tmp_path, adapters=adapters)
    export_run(tmp_path, merge=True)
    model = resolve(str(tmp_path / "out"), home=tmp_path)
    assert model.tokenizer().prompt_ids("a", raw=True)
    tokens = random_tokens(12)
    torch.testing.assert_close(
        reference_logits(loaded(tmp_path / "out"), tokens),
        reference_logits(adapted, tokens),
        atol=1e-3,
        rtol=1e-4,
    )


def test_a_large_model_is_several_files_and_an_index(tmp_path: Path) -> None:
    values = {f"w{i}": torch.full((4, 8), float(i)) for i in range(5)}
    described = [Described(name=name, dtype=torch.float32, shape=(4, 8)) for name in values]
    shards = shards_of(described, max_bytes=2 * 128 + 1)
    assert [shard.name for shard in shards] == [
        f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)
    ]
    write_weights(tmp_path, shards, iter(values.items()))
    assert [tensor.name for tensor in read_folder(tmp_path)] == list(values)
    assert torch.equal(load_file(tmp_path / shards[2].name)["w4"], values["w4"])


# ------------------------------------------------------------------------------------- refusals


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="is there already: give --output a new folder"):
        export_run(tmp_path)


@pytest.mark.parametrize("merge", [True, False])
def test_a_full_disk_is_told_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, merge: bool
) -> None:
    lora_run(tmp_path, TIED)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    export_run(tmp_path, merge=merge)  # what is kept of the model is there now
    shutil.rmtree(tmp_path / "out")
    there = sorted(tmp_path.iterdir())
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"cannot be written to .*out \(No space left"):
            export_run(tmp_path, merge=merge)
    assert sorted(tmp_path.iterdir()) == there


def test_a_step_may_be_named(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    with pytest.raises(CheckpointError, match="no checkpoint of step 40: choose one of 60"):
        export_run(tmp_path, step=40)
    assert export_run(tmp_path, step=60).step == 60


def test_a_model_that_is_gone_is_named(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"There is no model folder .*/model"):
        export_run(tmp_path)


def test_a_model_that_has_changed_is_told(tmp_path: Path) -> None:
    lora_run(tmp_path, TIED)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.5}))
    assert export_run(tmp_path).is_changed


@pytest.mark.parametrize("merge", [True, False])
def test_a_model_with_other_weights_is_refused_and_nothing_is_left(
    tmp_path: Path, *, merge: bool
) -> None:
    lora_run(tmp_path, TIED, num_layers=5 if merge else 4)
    write_model(tmp_path / "gpt2", "gpt2, learned positions")
    (tmp_path / "model").rename(tmp_path / "llama")
    (tmp_path / "gpt2").rename(tmp_path / "model")
    with pytest.raises((CheckpointError, DamagedWeights), match=r"model that was trained"):
        export_run(tmp_path, merge=merge)
    assert not (tmp_path / "out").exists()
