"""A tiny model to run once before anything counts: libraries load much on their first use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from edgepipe.core.frame import DType
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.architecture import build_on_meta, read_config

_CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "max_position_embeddings": 32,
}


@contextmanager
def tiny_stage() -> Iterator[StageSpec]:
    """The whole of a tiny model, whose weight file is there for as long."""
    model = build_on_meta(read_config(_CONFIG), DType.FLOAT32)
    weights = {name: torch.zeros(meta.shape) for name, meta in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part.safetensors"
        save_file(weights, part)
        yield StageSpec(
            config=_CONFIG,
            first=0,
            end=1,
            embedding=True,
            head=True,
            dtype=DType.FLOAT32,
            num_slots=2,
            max_positions=32,
            weights=(part,),
        )
