from __future__ import annotations

import pytest

from edgepipe.core.lora import module_of


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("model.layers.0.q_proj.lora_A.weight", "model.layers.0.q_proj"),
        ("model.layers.0.q_proj.lora_B.weight", "model.layers.0.q_proj"),
        ("model.layers.0.q_proj.weight", None),
        ("model.layers.0.q_proj.lora_A.weight#exp_avg", None),
        ("model.embed_tokens.lora_embedding_A", None),
    ],
)
def test_a_lora_tensor_stands_beside_a_module(name: str, module: str | None) -> None:
    assert module_of(name) == module
