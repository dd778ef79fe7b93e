"""The ONNX engine as a worker meets it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.onnx_stages import OnnxPipeline
from safetensors.torch import load_file, save_file

from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.onnx import build
from edgepipe.engine.onnx.engine import OnnxEngine
from edgepipe.engine.onnx.store import DATA_NAME, GRAPH_NAME
from edgepipe.errors import DamagedWeights, ModelError

from equivalence.tiny_models import (  # isort: skip
    Parts,
    random_model,
    random_tokens,
    reference_logits,
    write_parts,
)

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "tie_word_embeddings": True,
}
SPAN = [Span(slot=0, start=0, count=9)]


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(CONFIG)


@pytest.fixture
def parts(model: Any, tmp_path: Path) -> Parts:
    return write_parts(model, tmp_path)


def spec_of(parts: Parts, **changes: Any) -> StageSpec:
    fields = {
        "config": parts.config,
        "first": 0,
        "end": 2,
        "embedding": True,
        "head": True,
        "dtype": DType.FLOAT32,
        "num_slots": 2,
        "max_positions": 64,
        "weights": parts.of(0, 2, embedding=True, head=True),
        **changes,
    }
    return StageSpec(**fields)


def load(spec: StageSpec, cache: Path | None = None) -> OnnxEngine:
    engine = OnnxEngine("cpu", threads=1, cache=cache)
    engine.load(spec, lambda _done, _total: None)
    return engine


def test_it_is_an_engine_that_tells_how_far_it_is(parts: Parts) -> None:
    engine: Engine = OnnxEngine()
    seen: list[tuple[int, int]] = []
    loaded = engine.load(spec_of(parts), lambda done, total: seen.append((done, total)))
    assert loaded.kv_bytes == 2 * 2 * 2 * 2 * 65 * 16 * 4
    assert seen[-1] == (loaded.weight_bytes, loaded.weight_bytes)
    assert [done / total for done, total in seen] == sorted(done / total for done, total in seen)
    engine.unload()


@pytest.mark.parametrize("held", [WeightFormat.FLOAT32, WeightFormat.INT8, WeightFormat.INT4])
def test_matrices_take_what_core_says(tmp_path: Path, held: WeightFormat) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 288}
    parts = write_parts(random_model({**CONFIG, **sizes}), tmp_path)
    spec = spec_of(parts, first=0, end=1, embedding=False, head=True, weight_format=held)
    loaded = OnnxEngine().load(spec, lambda _done, _total: None)
    layer = [(512, 256), (256, 256), (288, 256), (288, 256), (256, 288)]
    matrices = sum(held.bytes_of(rows * columns) for rows, columns in layer)
    head = held.of_head.bytes_of(96 * 256)
    norms, rotary = 3 * 256 * 4, 2 * 129 * 32 * 4
    offsets = matrices // 6 if held is WeightFormat.INT4 else 0  # which these blocks have none of
    assert -offsets <= loaded.weight_bytes - matrices - head - norms - rotary < 64 * 20


def test_weights_in_8_bits_hardly_matter(model: Any, parts: Parts) -> None:
    """Their errors are those of weights and of activations."""
    tokens = random_tokens(24)
    exact = reference_logits(model, tokens)
    for held, error in ((WeightFormat.INT8, 0.05), (WeightFormat.INT4, 0.5)):
        actual = OnnxPipeline(parts, (1,), held=held).logits(tokens, chunks=(18,))
        assert 1e-3 < (actual - exact).std() / exact.std() < error


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_embedding_of_halves_is_looked_up_as_it_is(
    model: Any, tmp_path: Path, dtype: torch.dtype
) -> None:
    parts = write_parts(model, tmp_path, dtype=dtype)
    spec = spec_of(parts, end=0, head=False, weights=parts.of(0, 0, embedding=True, head=False))
    tokens = random_tokens(9)
    table = model.get_input_embeddings().weight.detach().to(dtype).float()
    assert torch.equal(load(spec).forward(SPAN, tokens), table[tokens])


def test_a_built_stage_is_used_again(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "built"
    first = load(spec_of(parts), built).forward(SPAN, random_tokens(9))
    monkeypatch.delattr(build, "build")
    monkeypatch.setattr("edgepipe.engine.onnx.engine.build", None)
    again = load(spec_of(parts, num_slots=4, max_positions=32), built)
    assert torch.equal(again.forward(SPAN, random_tokens(9)), first)


@pytest.mark.parametrize("name", [GRAPH_NAME, DATA_NAME])
def test_a_damaged_stage_is_built_again(parts: Parts, tmp_path: Path, name: str) -> None:
    built = tmp_path / "built"
    expected = load(spec_of(parts), built).forward(SPAN, random_tokens(9))
    (entry,) = built.iterdir()
    (entry / name).write_bytes((entry / name).read_bytes()[:-64])
    assert torch.equal(load(spec_of(parts), built).forward(SPAN, random_tokens(9)), expected)


def test_nothing_is_left_without_a_cache(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = load(spec_of(parts))
    assert list(tmp_path.glob("edgepipe-onnx-*"))
    engine.unload()
    assert not list(tmp_path.glob("edgepipe-onnx-*"))


def test_what_it_gave_stays_as_it_was(parts: Parts) -> None:
    engine = load(spec_of(parts))
    engine.forward(SPAN, random_tokens(9))
    first = engine.forward([Span(slot=0, start=9, count=1)], torch.tensor([3]))
    kept = first.clone()
    engine.forward([Span(slot=0, start=10, count=1)], torch.tensor([4]))
    assert torch.equal(first, kept)


def test_a_missing_tensor_is_named(parts: Parts) -> None:
    with pytest.raises(DamagedWeights, match=r"lack the tensor model\.layers\.1\."):
        load(spec_of(parts, weights=spec_of(parts).weights[:-1]))


def test_a_misshapen_tensor_is_named_with_its_file(parts: Parts) -> None:
    path = parts.layers[1]
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({**tensors, name: tensors[name].T.contiguous()}, path)
    with pytest.raises(DamagedWeights, match=rf"{name} in {path} has the shape"):
        load(spec_of(parts))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"dtype": DType.BFLOAT16}, "float32 here, not in bfloat16"),
        ({"weight_format": WeightFormat.FLOAT16}, "not as float16"),
        ({"max_positions": 256}, "128 positions, not 256"),
        ({"config": {**CONFIG, "model_type": "olmo"}}, "use --engine torch"),
    ],
)
def test_what_it_cannot_run_is_refused(parts: Parts, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        load(spec_of(parts, **changes))


@pytest.mark.parametrize("kind", ["linear", "dynamic", "yarn"])
def test_an_older_name_of_a_rotary_kind_is_understood(parts: Parts, kind: str) -> None:
    config = {**CONFIG, "rope_scaling": {"type": kind, "factor": 4.0}}
    with pytest.raises(ModelError, match=f"rotary positions of type '{kind}'"):
        load(spec_of(parts, config=config))
    assert config["rope_scaling"] == {"type": kind, "factor": 4.0}


def test_what_a_config_leaves_out_is_as_transformers_has_it(parts: Parts) -> None:
    """Fields of which the file says nothing."""
    whole = load(spec_of(parts)).forward(SPAN, random_tokens(9))
    short = dict(CONFIG)
    assert "hidden_act" not in short
    assert torch.equal(load(spec_of(parts, config=short)).forward(SPAN, random_tokens(9)), whole)
    del short["max_position_embeddings"]
    with pytest.raises(ModelError, match="2048 positions, not 4096"):
        load(spec_of(parts, config=short, max_positions=4096))


def test_a_device_without_a_provider_is_refused(parts: Parts) -> None:
    with pytest.raises(ModelError, match="does not run on xpu"):
        OnnxEngine("xpu").load(spec_of(parts), lambda _done, _total: None)


def test_a_span_that_leaves_a_gap_is_a_defect(parts: Parts) -> None:
    engine = load(spec_of(parts))
    engine.forward([Span(slot=0, start=0, count=3)], random_tokens(3))
    with pytest.raises(AssertionError, match="gap"):
        engine.forward([Span(slot=0, start=4, count=1)], random_tokens(1))


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives(parts: Parts) -> None:
    spec = spec_of(parts, dtype=DType.FLOAT16)
    engine = OnnxEngine("cuda:0")
    engine.load(spec, lambda _done, _total: None)
    expected = load(spec_of(parts)).forward(SPAN, random_tokens(9))
    actual = engine.forward(SPAN, random_tokens(9)).float().cpu()
    torch.testing.assert_close(actual, expected, atol=0.05, rtol=0.05)
