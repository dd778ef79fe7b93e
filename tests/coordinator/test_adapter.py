"""An adapter is used as it is, or refused in a sentence that says what to do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load
from safetensors.numpy import save_file as save
from tiny_files import LLAMA_CONFIG, random_array

from edgepipe.coordinator.adapter import read_adapter
from edgepipe.core.model import ModelShape
from edgepipe.engine.torch.probe import model_shape
from edgepipe.errors import ModelError

CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none", "rank_pattern": {}}
Q_PROJ = "base_model.model.model.layers.1.self_attn.q_proj"
UP_PROJ = "base_model.model.model.layers.0.mlp.up_proj"
TENSORS = {
    f"{Q_PROJ}.lora_A.weight": random_array(2, 32),
    f"{Q_PROJ}.lora_B.weight": random_array(32, 2, seed=1),
    f"{UP_PROJ}.lora_A.weight": random_array(2, 32, seed=2).astype(np.float16),
    f"{UP_PROJ}.lora_B.weight": random_array(32, 2, seed=3),
}


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return model_shape("tiny", {**LLAMA_CONFIG, "tie_word_embeddings": True})


def write(folder: Path, tensors: dict[str, Any] = TENSORS, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    save(tensors, folder / "adapter_model.safetensors")
    return folder


def test_its_tensors_are_named_as_the_models_modules(tmp_path: Path, shape: ModelShape) -> None:
    adapter = read_adapter(write(tmp_path), shape)
    layer = shape.tensors(shape.items(1, 2, embedding=False, head=False))
    assert sorted(adapter.beside(layer)) == [
        "model.layers.1.self_attn.q_proj.lora_A.weight",
        "model.layers.1.self_attn.q_proj.lora_B.weight",
    ]


def test_it_is_cut_into_a_part_for_each_layer(tmp_path: Path, shape: ModelShape) -> None:
    parts = read_adapter(write(tmp_path / "adapter"), shape).parts(tmp_path)
    found = [load(part.read(0, part.size_bytes)) for part in parts]
    layers = [{name.split(".")[2] for name in each} for each in found]
    assert sorted(map(list, layers)) == [["0"], ["1"]]
    values = {f"base_model.model.{name}": array for each in found for name, array in each.items()}
    assert values.keys() == TENSORS.keys()
    assert all(np.array_equal(values[name], array) for name, array in TENSORS.items())


@pytest.mark.parametrize(
    ("changes", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / math.sqrt(2)), ({"r": 2.0}, None)]
)
def test_its_scale_is_alpha_over_rank(
    tmp_path: Path, shape: ModelShape, changes: dict[str, Any], scale: float | None
) -> None:
    if scale is None:
        with pytest.raises(ModelError, match="no rank r from 1 to 4096"):
            read_adapter(write(tmp_path, **changes), shape)
    else:
        assert read_adapter(write(tmp_path, **changes), shape).options == {"adapter_scale": scale}


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "IA3"}, "of the kind IA3: only LORA"),
    "no kind": ({"peft_type": None}, "of the kind None: only LORA"),
    "DoRA": ({"use_dora": True}, "uses DoRA, .* merge it into its model with PEFT"),
    "biases": ({"bias": "all"}, "trains biases"),
    "ranks": ({"rank_pattern": {"q_proj": 4}}, "ranks that differ"),
    "alphas": ({"alpha_pattern": {"q_proj": 4}}, "alphas that differ"),
    "modules": ({"modules_to_save": ["lm_head"]}, "trains whole modules"),
    "repeated layers": ({"layer_replication": [[0, 2]]}, "repeats layers"),
    "no rank": ({"r": 0}, "no rank r from 1 to 4096: correct it"),
    "a huge rank": ({"r": 1 << 20}, "no rank r from 1"),
    "a rank of truth": ({"r": True}, "no rank r from 1"),
    "no alpha": ({"lora_alpha": None}, "no lora_alpha from 0"),
    "an endless alpha": ({"lora_alpha": math.inf}, "no lora_alpha from 0"),
    "alpha is no number": ({"lora_alpha": math.nan}, "no lora_alpha from 0"),
    "another rank": ({"r": 3}, "is of rank 2 at .*, but its config says 3"),
}


@pytest.mark.parametrize(("changes", "sentence"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_is_not_plain_lora_is_refused(
    tmp_path: Path, shape: ModelShape, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_adapter(write(tmp_path, **changes), shape)


A, B = ".lora_A.weight", ".lora_B.weight"
FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "another layer": (
        {Q_PROJ.replace("1", "7") + A: random_array(2, 32)}, "tiny has no such weight of its own:",
    ),
    "a tied head": (
        {"base_model.model.lm_head" + A: random_array(2, 32)}, r"\(it shares the embedding's\)",
    ),
    "another size": (
        {Q_PROJ + A: random_array(2, 32), Q_PROJ + B: random_array(33, 2)},
        r"q_proj\.weight has 1024 values, the adapter's \[33, 32\]",
    ),
    "half": ({Q_PROJ + A: random_array(2, 32)}, "only half of .*q_proj: export it again"),
    "integers": (
        {Q_PROJ + A: np.ones((2, 32), np.int8), Q_PROJ + B: random_array(32, 2)}, "no matrices",
    ),
    "a vector": ({Q_PROJ + A: random_array(2), Q_PROJ + B: random_array(32, 2)}, "no matrices"),
    "an embedding": (
        {"base_model.model.model.embed_tokens.lora_embedding_A": random_array(2, 260)},
        "is no LoRA of a linear module",
    ),
    "a bare name": ({"model.layers.0.x" + A: random_array(2, 2)}, "is no LoRA of a linear module"),
    "a magnitude": ({Q_PROJ + ".lora_magnitude_vector": random_array(3)}, "is no LoRA of a linear"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "sentence"), FOREIGN.values(), ids=FOREIGN.keys())
def test_a_tensor_that_lands_nowhere_is_refused(
    tmp_path: Path, shape: ModelShape, tensors: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        read_adapter(write(tmp_path, tensors), shape)


def test_pickles_are_not_read(tmp_path: Path, shape: ModelShape) -> None:
    write(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ModelError, match="only pickled weights, which edgepipe never reads"):
        read_adapter(tmp_path, shape)


def test_a_folder_that_is_no_adapter_says_what_to_give(tmp_path: Path, shape: ModelShape) -> None:
    with pytest.raises(ModelError, match=r"holds no adapter_config\.json: give the folder of a"):
        read_adapter(tmp_path, shape)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ModelError, match="is a training run: write its adapter with `edgepipe exp"):
        read_adapter(tmp_path, shape)
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ModelError, match=r"holds no adapter_model\.safetensors"):
        read_adapter(tmp_path, shape)
