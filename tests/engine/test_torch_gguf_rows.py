"""Piecewise reading equals transformers' processing of the whole tensor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf.quants
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import save_file
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

from edgepipe.engine.torch.gguf_rows import read_gguf
from edgepipe.engine.torch.part import read_part
from edgepipe.errors import DamagedWeights

CONFIG = {
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "n_head": 8,
    "hidden_size": 512,
}

CASES = [
    ("llama", "blk.0.attn_q.weight", (1024, 512)),
    ("llama", "blk.0.attn_k.weight", (1024, 512)),
    ("llama", "blk.0.ffn_up.weight", (1536, 512)),
    ("llama", "blk.0.attn_norm.weight", (512,)),
    ("gpt2", "blk.0.ffn_up.weight", (1536, 512)),
    ("gpt2", "blk.0.attn_qkv.bias", (1536,)),
    ("gpt2", "output.weight", (1536, 512)),
    ("gemma2", "blk.0.attn_norm.weight", (512,)),
    ("bloom", "blk.0.attn_qkv.weight", (1536, 512)),
    ("unheard-of", "blk.0.ffn_up.weight", (1536, 512)),
]


def write(path: Path, architecture: str, name: str, values: Any, kind: str) -> Any:
    """Store `values` as `kind` blocks; returns the values that the blocks stand for."""
    quantised = GGMLQuantizationType[kind]
    blocks = gguf.quants.quantize(values, quantised)
    tensors = {"a.weight": {"type": kind, "shape": list(values.shape), "name": name}}
    metadata = {"gguf": json.dumps({"architecture": architecture, "tensors": tensors})}
    save_file({"a.weight": torch.from_numpy(blocks.copy())}, path, metadata)
    return gguf.quants.dequantize(blocks, quantised)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F32", "F16"])
@pytest.mark.parametrize(("architecture", "name", "shape"), CASES)
def test_pieces_equal_the_whole(
    tmp_path: Path, architecture: str, name: str, shape: tuple[int, ...], kind: str
) -> None:
    path = tmp_path / "part.safetensors"
    values = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    whole = write(path, architecture, name, values, kind)
    expected = whole
    if architecture in TENSOR_PROCESSORS:
        filed: dict[str, Any] = {"tensors": {}}
        processor = TENSOR_PROCESSORS[architecture](config=CONFIG)
        expected = processor.process(whole, name, parsed_parameters=filed).weights
    target = torch.empty(expected.shape)
    counted: list[int] = []
    stored = read_part(path)["a.weight"]
    read_gguf(stored, target, CONFIG, counted.append)
    np.testing.assert_array_equal(target.numpy(), expected)
    assert sum(counted) == stored.num_bytes


@pytest.mark.parametrize("rows", [4, 1024])
def test_another_shape_is_damage(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "part.safetensors"
    write(path, "llama", "blk.0.ffn_up.weight", np.zeros((rows, 512), np.float32), "Q8_0")
    with pytest.raises(DamagedWeights, match=r"a\.weight in .* has the shape"):
        read_gguf(read_part(path)["a.weight"], torch.empty(512, 512), {}, lambda _: None)
