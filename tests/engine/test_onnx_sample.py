"""Layers with random weights take what those of the model's own file would."""

from __future__ import annotations

import math

import pytest
import torch

from edgepipe.core.frame import DType, Span
from edgepipe.core.measured import Measurement
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.engine.onnx.engine import OnnxEngine
from edgepipe.engine.onnx.sample import random_engine
from edgepipe.engine.torch.anatomy import Cut

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Loaded]:
    """What engines said that they loaded."""
    found: list[Loaded] = []
    load = OnnxEngine.load

    def noted(self: OnnxEngine, spec: StageSpec, progress: Progress) -> Loaded:
        found.append(load(self, spec, progress))
        return found[-1]

    monkeypatch.setattr(OnnxEngine, "load", noted)
    return found


@pytest.mark.parametrize("layers", [0, 2])
def test_offsets_are_of_the_blocks_of_layers(layers: int, loaded: list[Loaded]) -> None:
    cut = Cut(first=0, end=layers, embedding=False, head=False)
    for offsets in (False, True):
        asked = Measurement(
            dtype=DType.FLOAT32,
            num_slots=2,
            max_positions=64,
            prefill_chunk=16,
            memory_bytes=1 << 30,
            engine="onnx",
            weight_format=WeightFormat.INT4,
            offsets=offsets,
        )
        engine = random_engine(CONFIG, asked, cut, torch.device("cpu"))
        rows = torch.zeros(3, 64) if layers else torch.zeros(3, dtype=torch.int64)
        out = engine.forward([Span(slot=0, start=0, count=3)], rows)
        assert math.isfinite(float(out.sum()))
        engine.unload()
    plain, with_offsets = (each.weight_bytes for each in loaded)
    assert (with_offsets > plain) == bool(layers)
