"""Stages with random weights, which stand for the model's own while something is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from equivalence.tiny_models import CONFIGS, NUM_LAYERS, config_dict

from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.anatomy import Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.engine import TorchEngine
from edgepipe.engine.torch.sample import SPREAD, layer_kinds, random_stage, sample_of
from edgepipe.engine.torch.stage_model import StageModel

CPU = torch.device("cpu")
SPARSE_QWEN = {
    "model_type": "qwen2_moe",
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "mlp_only_layers": [0],
    "bos_token_id": None,
    "eos_token_id": None,
}
GEMMA = {
    "model_type": "gemma3_text",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 96,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
}


def engine_of(fields: dict[str, Any], cut: Cut, dtype: DType = DType.FLOAT32) -> TorchEngine:
    config = config_dict(fields)
    model, anatomy = random_stage(config, dtype, cut, CPU)
    spec = StageSpec(
        config=config,
        first=cut.first,
        end=cut.end,
        embedding=cut.embedding,
        head=cut.head,
        dtype=dtype,
        num_slots=2,
        max_positions=32,
    )
    engine = TorchEngine("cpu")
    engine.take(StageModel(model, anatomy, cut), anatomy, cut, spec)
    return engine


def cuts() -> dict[str, Cut]:
    return {
        "nothing": sample_of(()),
        "layers apart": sample_of((0, 2)),
        "embedding": Cut(first=0, end=0, embedding=True, head=False),
        "head": Cut(first=NUM_LAYERS, end=NUM_LAYERS, embedding=False, head=True),
    }


@pytest.mark.parametrize("cut", cuts().values(), ids=cuts().keys())
@pytest.mark.parametrize(
    "fields", [*CONFIGS.values(), SPARSE_QWEN, GEMMA], ids=[*CONFIGS, "experts", "gemma"]
)
@pytest.mark.parametrize("dtype", [DType.FLOAT32, DType.BFLOAT16])
def test_it_computes_finite_values(fields: dict[str, Any], cut: Cut, dtype: DType) -> None:
    engine = engine_of(fields, cut, dtype)
    spans = [Span(slot=slot, start=0, count=4) for slot in range(2)]
    rows = torch.randn(8, 48).to(getattr(torch, dtype))
    inputs = torch.randint(96, (8,)) if cut.embedding else rows
    output = engine.forward(spans, inputs)
    assert output.shape == ((2, 96) if cut.head else (8, 48))
    assert output.isfinite().all()


def test_a_stage_with_nothing_hands_on_what_it_gets() -> None:
    engine = engine_of(CONFIGS["llama, tied"], sample_of(()))
    rows = torch.randn(3, 48)
    assert torch.equal(engine.forward([Span(slot=0, start=0, count=3)], rows), rows)


def test_only_the_chosen_layers_have_weights_and_a_cache() -> None:
    model, _ = random_stage(config_dict(CONFIGS["qwen2"]), DType.FLOAT32, sample_of((0, 2)), CPU)
    held = {int(name.split(".")[2]) for name, _ in model.named_parameters() if ".layers." in name}
    assert held == {0, 2}
    engine = engine_of(CONFIGS["qwen2"], sample_of((0, 2)))
    assert engine.export_state(0)[0].shape[0] == 2


def test_weights_are_small_unlike_and_never_denormal() -> None:
    cut = sample_of((1,))
    model, _ = random_stage(config_dict(CONFIGS["llama, tied"]), DType.FLOAT32, cut, CPU)
    weight = model.model.layers[1].mlp.up_proj.weight
    assert 0 < weight.abs().max() <= SPREAD
    assert len(weight.unique(dim=0)) == len(weight), "no two rows are alike"
    normal = torch.finfo(torch.float32).tiny
    assert ((weight == 0) | (weight.abs() >= normal)).all()


def test_a_tied_head_holds_one_matrix() -> None:
    whole = Cut(first=0, end=1, embedding=True, head=True)
    model, _ = random_stage(config_dict(CONFIGS["llama, tied"]), DType.FLOAT32, whole, CPU)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def kinds_of(fields: dict[str, Any]) -> tuple[int, ...]:
    model = build_on_meta(read_config(config_dict(fields)), DType.FLOAT32)
    return layer_kinds(model, examine(model))


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        (CONFIGS["llama, tied"], (0, 0, 0, 0)),
        (SPARSE_QWEN, (0, 1, 1, 1)),
        (GEMMA, (0, 1, 0, 1)),
    ],
    ids=["alike", "the first has no experts", "two kinds of attention"],
)
def test_layers_of_equal_shapes_and_attention_are_of_one_kind(
    fields: dict[str, Any], kinds: tuple[int, ...]
) -> None:
    assert kinds_of(fields) == kinds
