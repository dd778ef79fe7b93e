"""Any cut of a model on ONNX Runtime gives the logits of transformers in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.onnx_stages import OnnxPipeline

from edgepipe.core.frame import Span

from equivalence.tiny_models import (  # isort: skip
    Parts,
    Pipeline,
    random_model,
    random_tokens,
    reference_logits,
    write_parts,
)

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
CUTS = [(), (2,), (1, 3)]

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "max_position_embeddings": 128,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_LOCAL_GLOBAL = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 7}
_LLAMA3 = {
    "rope_theta": 10000.0,
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LLAMA = {"model_type": "llama", **_SIZES}
MODELS: dict[str, dict[str, Any]] = {
    "llama, tied": {**LLAMA, "tie_word_embeddings": True},
    "llama 3": {**LLAMA, "rope_parameters": _LLAMA3},
    "mistral, sliding window": {"model_type": "mistral", **_SIZES, "sliding_window": 7},
    "qwen2": {"model_type": "qwen2", **_SIZES},
    "qwen3": {"model_type": "qwen3", **_SIZES, "head_dim": 32, "num_key_value_heads": 1},
    "gemma2": {"model_type": "gemma2", **_SIZES, "head_dim": 16, **_LOCAL_GLOBAL},
    "gemma3": {"model_type": "gemma3_text", **_SIZES, "head_dim": 16, **_LOCAL_GLOBAL},
    "phi": {**_SIZES, "model_type": "phi", "num_attention_heads": 2, "num_key_value_heads": 2},
    "phi3, sliding window": {"model_type": "phi3", **_SIZES, "sliding_window": 7},
    "granite": {
        "model_type": "granite",
        **_SIZES,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 0.5,
        "attention_multiplier": 0.2,
    },
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Parts]:
    model = random_model(request.param)
    return model, write_parts(model, tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Parts, Path]:
    model = random_model(MODELS["llama, tied"])
    parts = write_parts(model, tmp_path_factory.mktemp("parts"))
    return model, parts, tmp_path_factory.mktemp("built")


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_logits_of_a_cut_equal_the_whole(tiny: tuple[Any, Parts], cuts: tuple[int, ...]) -> None:
    model, parts = tiny
    tokens = random_tokens(40)
    expected = reference_logits(model, tokens)
    assert expected.std() >= 1
    actual = OnnxPipeline(parts, cuts).logits(tokens, slot=1, chunks=(20, 5, 2))
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_its_cache_is_that_of_the_torch_engine(tiny: tuple[Any, Parts]) -> None:
    _, parts = tiny
    tokens = random_tokens(14, seed=5)
    onnx, reference = OnnxPipeline(parts, (2,)), Pipeline(parts, (2,))
    for pipeline in (onnx, reference):
        pipeline.logits(tokens[:12], slot=2, chunks=(11,))
    for ours, theirs in zip(onnx.engines, reference.engines, strict=True):
        for mine, other in zip(ours.export_state(2), theirs.export_state(2), strict=True):
            torch.testing.assert_close(mine, other, **TOLERANCE)
        ours.import_state(0, *theirs.export_state(2))
    actual = onnx.forward([Span(slot=0, start=12, count=2)], tokens[12:])
    expected = reference.forward([Span(slot=2, start=12, count=2)], tokens[12:])
    torch.testing.assert_close(actual, expected, **TOLERANCE)


@pytest.mark.parametrize("torch_stages", [{0}, {1}])
def test_stages_of_both_engines_make_one_pipeline(
    llama: tuple[Any, Parts, Path], torch_stages: set[int]
) -> None:
    model, parts, built = llama
    tokens = random_tokens(24, seed=6)
    mixed = OnnxPipeline(parts, (2,), torch_stages=frozenset(torch_stages), cache=built)
    actual = mixed.logits(tokens, chunks=(9, 5))
    torch.testing.assert_close(actual, reference_logits(model, tokens), **TOLERANCE)


@pytest.mark.parametrize("slots", [(0, 1, 2, 3), (3, 1, 0), (0, 2, 5), (0, 4, 7)], ids=str)
def test_rows_of_unequal_length_decode_together(
    llama: tuple[Any, Parts, Path], slots: tuple[int, ...]
) -> None:
    """In a run, out of order, over a short gap and over a long one; the others stay unharmed."""
    model, parts, built = llama
    pipeline = OnnxPipeline(parts, (2,), num_slots=8, max_positions=20, cache=built)
    prompts = {slot: random_tokens(20 - slot, seed=slot) for slot in range(8)}
    for slot, prompt in prompts.items():
        kept = len(prompt) - (2 if slot in slots else 0)
        pipeline.forward([Span(slot=slot, start=0, count=kept)], prompt[:kept])
    before = {slot: pipeline.engines[1].export_state(slot) for slot in range(8)}
    for back in (2, 1):
        spans = [Span(slot=slot, start=len(prompts[slot]) - back, count=1) for slot in slots]
        tokens = torch.stack([prompts[slot][-back] for slot in slots])
        actual = pipeline.forward(spans, tokens)
        expected = torch.stack([reference_logits(model, prompts[slot])[-back] for slot in slots])
        torch.testing.assert_close(actual, expected, **TOLERANCE)
    for slot in set(prompts).difference(slots):
        for was, remains in zip(before[slot], pipeline.engines[1].export_state(slot), strict=True):
            assert torch.equal(was, remains)


def test_a_group_gives_what_each_row_gives_alone(llama: tuple[Any, Parts, Path]) -> None:
    _, parts, built = llama
    together, alone = (OnnxPipeline(parts, cache=built) for _ in range(2))
    prompts = [random_tokens(count, seed=count) for count in (11, 3, 17)]
    for pipeline in (together, alone):
        for slot, prompt in enumerate(prompts):
            pipeline.forward([Span(slot=slot, start=0, count=len(prompt))], prompt)
    spans = [Span(slot=slot, start=len(prompt), count=1) for slot, prompt in enumerate(prompts)]
    group = together.forward(spans, torch.tensor([5, 6, 7]))
    singles = [alone.forward([span], torch.tensor([5 + span.slot])) for span in spans]
    torch.testing.assert_close(group, torch.cat(singles), **TOLERANCE)


@pytest.mark.parametrize("all_logits", [False, True])
def test_any_mix_of_spans_is_right(llama: tuple[Any, Parts, Path], *, all_logits: bool) -> None:
    model, parts, built = llama
    pipeline = OnnxPipeline(parts, (1,), num_slots=8, cache=built)
    starts = {6: 0, 2: 13, 0: 4, 5: 0, 3: 9, 4: 0}
    counts = {6: 12, 2: 1, 0: 3, 5: 5, 3: 1, 4: 1}
    sequences = {slot: random_tokens(starts[slot] + counts[slot], seed=slot) for slot in starts}
    for slot, start in starts.items():
        if start:
            pipeline.forward([Span(slot=slot, start=0, count=start)], sequences[slot][:start])
    spans = [Span(slot=slot, start=starts[slot], count=counts[slot]) for slot in starts]
    tokens = torch.cat([sequences[slot][starts[slot] :] for slot in starts])
    actual = pipeline.forward(spans, tokens, all_logits=all_logits)
    rows = [reference_logits(model, sequences[slot])[starts[slot] :] for slot in starts]
    expected = torch.cat(rows if all_logits else [row[-1:] for row in rows])
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_a_span_below_the_cached_length_truncates(llama: tuple[Any, Parts, Path]) -> None:
    model, parts, built = llama
    pipeline = OnnxPipeline(parts, (2,), cache=built)
    wrong, right = random_tokens(15, seed=3), random_tokens(12, seed=4)
    right[:6] = wrong[:6]
    pipeline.logits(wrong, chunks=(15,))
    actual = pipeline.forward([Span(slot=0, start=6, count=6)], right[6:], all_logits=True)
    torch.testing.assert_close(actual, reference_logits(model, right)[6:], **TOLERANCE)


def test_embedding_and_head_may_stand_alone(llama: tuple[Any, Parts, Path]) -> None:
    model, parts, built = llama
    tokens = random_tokens(20, seed=1)
    apart = OnnxPipeline(parts, (0, 4), cache=built)
    torch.testing.assert_close(
        apart.logits(tokens, chunks=(16,)), reference_logits(model, tokens), **TOLERANCE
    )


def test_a_slot_fills_to_its_last_position(llama: tuple[Any, Parts, Path]) -> None:
    model, parts, built = llama
    tokens = random_tokens(128, seed=7)
    actual = OnnxPipeline(parts, cache=built).logits(tokens, chunks=(100, 25))
    torch.testing.assert_close(actual, reference_logits(model, tokens), **TOLERANCE)
