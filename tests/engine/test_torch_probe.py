from __future__ import annotations

from typing import Any

import pytest
from equivalence.tiny_models import CONFIGS, NUM_LAYERS, config_dict

from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.engine.torch.probe import model_shape
from edgepipe.errors import ModelError


def shape_of(name: str, **changes: Any) -> ModelShape:
    return model_shape(name, config_dict({**CONFIGS[name], **changes}))


def test_items_of_an_untied_llama() -> None:
    shape = shape_of("llama, untied, grouped queries")
    assert shape.architecture == "LlamaForCausalLM"
    assert (shape.num_layers, shape.hidden_size, shape.vocab_size) == (NUM_LAYERS, 48, 96)
    assert shape.max_positions == 128
    assert not shape.tied
    assert shape.embedding.tensors == ("model.embed_tokens.weight",)
    assert shape.embedding.flops_per_token == 0
    assert shape.head.tensors == ("model.norm.weight", "lm_head.weight")
    assert shape.layers[2].tensors[0] == "model.layers.2.self_attn.q_proj.weight"
    assert shape.layers[2].num_parameters == 48 * (48 + 24 + 24 + 48) + 3 * 48 * 80 + 2 * 48
    assert shape.layers[2].flops_per_token == 2 * shape.layers[2].num_parameters
    assert shape.layers[2].kv_values_per_token == 2 * 2 * 12


def test_a_tied_head_lists_the_embedding() -> None:
    shape = shape_of("llama, tied")
    assert shape.tied
    assert shape.head.tensors == ("model.norm.weight", "model.embed_tokens.weight")
    whole = shape.items(0, NUM_LAYERS, embedding=True, head=True)
    assert shape.weight_bytes(whole, DType.FLOAT32) == 4 * sum(shape.parameters.values())


def test_learned_positions_stand_with_the_embedding() -> None:
    shape = shape_of("gpt2, learned positions")
    assert shape.embedding.tensors == ("transformer.wte.weight", "transformer.wpe.weight")
    assert "transformer.h.0.attn.c_attn.weight" in shape.layers[0].tensors
    assert not any(name.endswith(".attn.bias") for name in shape.parameters), "a mask"


def test_use_decides_and_not_definition() -> None:
    """OPT defines its final norm and projections before its layers."""
    config = config_dict(
        {
            "model_type": "opt",
            "hidden_size": 48,
            "num_attention_heads": 4,
            "ffn_dim": 64,
            "num_hidden_layers": 2,
            "vocab_size": 96,
            "word_embed_proj_dim": 24,
            "bos_token_id": None,
            "eos_token_id": None,
        }
    )
    shape = model_shape("opt", config)
    assert shape.embedding.tensors[-1] == "model.decoder.project_in.weight"
    assert "model.decoder.final_layer_norm.weight" in shape.head.tensors
    assert "model.decoder.project_out.weight" in shape.head.tensors


def test_experts_are_named_as_in_a_checkpoint() -> None:
    fields = {**CONFIGS["llama, tied"], "model_type": "mixtral", "num_local_experts": 2}
    shape = model_shape("mixtral", config_dict(fields))
    assert "model.layers.1.block_sparse_moe.experts.1.w2.weight" in shape.layers[1].tensors


EXPERT = 3 * 48 * 40
MIXTURES = {
    "mixtral": {"num_local_experts": 4, "intermediate_size": 40},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 40},
    "qwen2_moe": {
        "num_experts": 4,
        "moe_intermediate_size": 40,
        "shared_expert_intermediate_size": 40,
    },
}


@pytest.mark.parametrize(("kind", "fields"), MIXTURES.items(), ids=MIXTURES)
def test_a_layer_holds_all_experts_and_a_token_uses_some(kind: str, fields: dict[str, Any]) -> None:
    base = {**CONFIGS["llama, untied, grouped queries"], "num_experts_per_tok": 1}
    shape = model_shape(kind, config_dict({**base, **fields, "model_type": kind}))
    layer = shape.layers[1]
    assert layer.num_parameters == sum(shape.parameters[name] for name in layer.tensors)
    assert layer.flops_per_token == 2 * (layer.num_parameters - 3 * EXPERT)
    own = [name for name in shape.matrices if name in layer.tensors]
    assert not [name for name in own if ".experts." in name or name.endswith(".gate.weight")]


def test_linear_modules_with_a_forward_of_their_own_keep_the_dtype() -> None:
    fields = {
        **CONFIGS["llama, untied, grouped queries"],
        "model_type": "falcon",
        "new_decoder_architecture": False,
    }
    shape = model_shape("falcon", config_dict(fields))
    assert set(shape.matrices) <= set(shape.head.tensors)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("bfloat16", DType.BFLOAT16), ("float16", DType.FLOAT16), (None, DType.FLOAT32)],
)
def test_the_type_is_the_configs(given: str | None, expected: DType) -> None:
    assert shape_of("qwen2", dtype=given).dtype is expected


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "None is not known"),
        ({"model_type": "nobody_knows"}, "'nobody_knows' is not known"),
        ({"model_type": "t5"}, "'t5' has no causal language model"),
        ({"model_type": "mamba", "num_hidden_layers": 2, "hidden_size": 32}, "'mamba'"),
        ({**CONFIGS["qwen3"], "hidden_size": "wide"}, "qwen3"),
        ({**CONFIGS["qwen3"], "quantization_config": {"quant_method": "gptq"}}, "with gptq"),
        ({**CONFIGS["qwen3"], "num_attention_heads": 0}, "qwen3"),
        ({**CONFIGS["qwen3"], "num_hidden_layers": 10**9}, "1000000000 layers"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        model_shape("x", config)
    assert "\n" not in str(caught.value)
