"""Architectures and rotary variants that the engine has no code for, held to the same tolerance.

The reference is transformers with its own cache, fed the same chunks: the tables of `dynamic` and
`longrope` depend on how far a chunk reaches.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import (
    CONFIGS,
    Pipeline,
    random_model,
    random_tokens,
    write_parts,
)
from transformers import DynamicCache

from edgepipe.core.frame import Span

pytestmark = pytest.mark.slow  # the six configurations of test_stages_equal_model are not
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
CHUNKS = (9, 5, 2, 1, 1, 1, 1)

BASE = {**CONFIGS["llama, untied, grouped queries"], "head_dim": 16}
OLDER = {key: BASE[key] for key in ("vocab_size", "bos_token_id", "eos_token_id")}
LOCAL_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 7}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
NUM_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40}


def rotary(kind: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, "rope_type": kind, **parameters}}


OTHERS: dict[str, dict[str, Any]] = {
    "gemma": {**BASE, "model_type": "gemma"},
    "gemma2": {**BASE, **LOCAL_GLOBAL, "model_type": "gemma2"},
    "gemma3_text": {**BASE, **LOCAL_GLOBAL, "model_type": "gemma3_text"},
    "phi3": {**BASE, "model_type": "phi3"},
    "gpt_neox": {**BASE, "model_type": "gpt_neox"},
    "olmo2": {**BASE, "model_type": "olmo2"},
    "granite": {**BASE, "model_type": "granite"},
    "cohere": {**BASE, "model_type": "cohere", "logit_scale": 1.0},
    "opt": {
        **OLDER,
        "model_type": "opt",
        "hidden_size": 48,
        "num_attention_heads": 4,
        "ffn_dim": 80,
        "num_hidden_layers": 4,
        "word_embed_proj_dim": 24,
        "pad_token_id": None,
    },
    "falcon": {**BASE, "model_type": "falcon", "new_decoder_architecture": False},
    "bloom": {**OLDER, "model_type": "bloom", "hidden_size": 48, "n_head": 4, "n_layer": 4},
    "mixtral": {**BASE, **EXPERTS, "model_type": "mixtral"},
    "qwen2_moe": {
        **BASE,
        **NUM_EXPERTS,
        "model_type": "qwen2_moe",
        "shared_expert_intermediate_size": 40,
    },
    "qwen3_moe": {**BASE, **NUM_EXPERTS, "model_type": "qwen3_moe"},
    "phi3, sliding window": {**BASE, "model_type": "phi3", "sliding_window": 7},
    "mixtral, sliding window": {
        **BASE,
        **EXPERTS,
        "model_type": "mixtral",
        "sliding_window": 7,
    },
    "gpt_oss": {**BASE, **EXPERTS, **LOCAL_GLOBAL, "model_type": "gpt_oss", **rotary("default")},
    "linear": {**BASE, **rotary("linear", factor=2.0)},
    "dynamic": {**BASE, "max_position_embeddings": 16, **rotary("dynamic", factor=2.0)},
    "llama3": {
        **BASE,
        **rotary(
            "llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    },
    "yarn": {**BASE, **rotary("yarn", factor=4.0, original_max_position_embeddings=32)},
    "longrope": {
        **BASE,
        "model_type": "phi3",
        "original_max_position_embeddings": 12,
        **rotary(
            "longrope",
            short_factor=[1.0] * 6,
            long_factor=[2.0] * 6,
            original_max_position_embeddings=12,
        ),
    },
}
for name in ("falcon", "longrope"):
    del OTHERS[name]["head_dim"]


def reference(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    cache, rows, start = DynamicCache(config=model.config), [], 0
    with torch.inference_mode():
        for count in CHUNKS:
            piece = tokens[None, start : start + count]
            rows.append(model(input_ids=piece, past_key_values=cache, use_cache=True).logits[0])
            start += count
    return torch.cat(rows)


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_stages_equal_the_whole_alone_and_together(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = random_model(fields)
    parts = write_parts(model, tmp_path)
    sequences = [random_tokens(sum(CHUNKS), seed=seed) for seed in range(2)]
    expected = [reference(model, tokens) for tokens in sequences]
    assert expected[0].std() >= 1
    alone = Pipeline(parts, (1, 3), apart=True).logits(sequences[0], chunks=CHUNKS)
    torch.testing.assert_close(alone, expected[0], **TOLERANCE)
    together = Pipeline(parts, (2,))
    starts = [sum(CHUNKS[:at]) for at in range(len(CHUNKS))]
    # The second sequence follows two steps behind the first.
    for step in range(len(CHUNKS) + 2):
        own = [(slot, step - 2 * slot) for slot in range(2) if 0 <= step - 2 * slot < len(CHUNKS)]
        spans = [Span(slot=slot, start=starts[at], count=CHUNKS[at]) for slot, at in own]
        tokens = [sequences[span.slot][span.start : span.end] for span in spans]
        actual = together.forward(spans, torch.cat(tokens), all_logits=True)
        wanted = torch.cat([expected[span.slot][span.start : span.end] for span in spans])
        torch.testing.assert_close(actual, wanted, **TOLERANCE)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe", "phi3", "gemma3_text"])
def test_stages_are_read_from_a_folder_that_transformers_saved(tmp_path: Path, name: str) -> None:
    model = random_model(OTHERS[name])
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    parts = write_parts(model, tmp_path)
    path = saved / "model.safetensors"
    whole = replace(
        parts,
        layers=(path,) * parts.shape.num_layers,
        outside=dict.fromkeys(parts.outside, path),
    )
    tokens = random_tokens(sum(CHUNKS))
    for cuts in ((), (2,), (1, 3)):
        actual = Pipeline(whole, cuts).logits(tokens, chunks=CHUNKS)
        torch.testing.assert_close(actual, reference(model, tokens), **TOLERANCE)
