from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import (
    CONFIGS,
    NUM_LAYERS,
    Parts,
    Pipeline,
    random_model,
    random_tokens,
    write_parts,
)
from safetensors.torch import load_file, save_file

from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.torch.engine import TorchEngine, warm_up
from edgepipe.errors import DamagedWeights


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return write_parts(random_model(CONFIGS["llama, tied"]), tmp_path)


def spec_of(parts: Parts, **changes: Any) -> StageSpec:
    whole = {"first": 0, "end": NUM_LAYERS, "embedding": True, "head": True}
    fields = {
        **whole,
        "config": parts.config,
        "dtype": DType.FLOAT32,
        "num_slots": 2,
        "max_positions": 64,
        "weights": parts.of(0, NUM_LAYERS, embedding=True, head=True),
        **changes,
    }
    return StageSpec(**fields)


def load(spec: StageSpec) -> TorchEngine:
    engine = TorchEngine("cpu")
    engine.load(spec, lambda _done, _total: None)
    return engine


def test_it_is_an_engine_that_counts_what_it_holds(parts: Parts) -> None:
    engine: Engine = TorchEngine("cpu")
    seen: list[tuple[int, int]] = []
    loaded = engine.load(spec_of(parts), lambda done, total: seen.append((done, total)))
    assert loaded.weight_bytes == 4 * sum(parts.shape.parameters.values())
    assert loaded.kv_bytes == NUM_LAYERS * 2 * 2 * 64 * 48 * 4
    assert seen[-1] == (loaded.weight_bytes, loaded.weight_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_middle_stage_holds_its_own_layers_only(parts: Parts) -> None:
    spec = spec_of(parts, first=1, end=2, embedding=False, head=False)
    loaded = TorchEngine("cpu").load(spec, lambda _done, _total: None)
    assert loaded.weight_bytes == 4 * parts.shape.layers[1].num_parameters
    assert loaded.kv_bytes == 2 * 2 * 64 * 48 * 4


def test_bfloat16_hands_on_bfloat16_and_gives_float32_logits(parts: Parts) -> None:
    pipeline = Pipeline(parts, (2,), dtype=DType.BFLOAT16)
    tokens, span = random_tokens(9), Span(slot=0, start=0, count=9)
    hidden = pipeline.engines[0].forward([span], tokens)
    logits = pipeline.engines[1].forward([span], hidden, all_logits=True)
    assert hidden.dtype is torch.bfloat16
    assert logits.dtype is torch.float32
    exact = Pipeline(parts).forward([span], tokens, all_logits=True)
    assert (logits - exact).std() < 0.1 * exact.std()


def test_a_checkpoint_of_the_bare_model_is_read_too(tmp_path: Path) -> None:
    parts = write_parts(random_model(CONFIGS["gpt2, learned positions"]), tmp_path)
    span, tokens = [Span(slot=0, start=0, count=9)], random_tokens(9)
    expected = Pipeline(parts).forward(span, tokens)
    for path in (*parts.layers, *parts.outside.values()):
        bare = {k.removeprefix("transformer."): v for k, v in load_file(path).items()}
        save_file(bare, path)
    assert torch.equal(Pipeline(parts).forward(span, tokens), expected)


def test_a_missing_tensor_is_named(parts: Parts) -> None:
    with pytest.raises(DamagedWeights, match=r"lack the tensor model\.layers\.3\."):
        load(spec_of(parts, weights=spec_of(parts).weights[:-1]))


def test_a_misshapen_tensor_is_named_with_its_file(parts: Parts) -> None:
    path = parts.layers[1]
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].T.contiguous()}, path)
    with pytest.raises(DamagedWeights, match=rf"{name} in {path} has the shape"):
        load(spec_of(parts))


def test_an_engine_loads_again_after_a_failure(parts: Parts) -> None:
    engine = TorchEngine("cpu")
    with pytest.raises(DamagedWeights):
        engine.load(spec_of(parts, weights=()), lambda _done, _total: None)
    engine.load(spec_of(parts), lambda _done, _total: None)
    logits = engine.forward([Span(slot=0, start=0, count=3)], random_tokens(3))
    assert logits.shape == (1, 96)


def test_a_span_that_leaves_a_gap_is_a_defect(parts: Parts) -> None:
    engine = load(spec_of(parts))
    engine.forward([Span(slot=0, start=0, count=3)], random_tokens(3))
    with pytest.raises(AssertionError, match="gap"):
        engine.forward([Span(slot=0, start=4, count=1)], random_tokens(1))


def test_a_state_is_what_was_cached(parts: Parts) -> None:
    engine = load(spec_of(parts, end=2, head=False))
    engine.forward([Span(slot=1, start=0, count=5)], random_tokens(5))
    keys, values = engine.export_state(1)
    assert keys.shape == values.shape == (2, 4, 5, 12)
    engine.import_state(0, keys, values)
    assert torch.equal(engine.export_state(0)[0], keys)
    engine.forward([Span(slot=1, start=0, count=2)], random_tokens(2, seed=1))
    assert engine.export_state(1)[0].shape[2] == 2
    assert keys.shape[2] == 5


def test_warm_up_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    warm_up()
    assert not list(tmp_path.iterdir())
