"""Stages that hold their matrices in a weight format, beside the same stages in float32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.smollm2_parts import gguf_file
from equivalence.test_other_architectures import EXPERTS, OTHERS
from equivalence.tiny_models import (
    CONFIGS,
    Parts,
    Pipeline,
    random_model,
    random_tokens,
    reference_logits,
    write_parts,
)
from transformers import AutoTokenizer

from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat

TEXT = Path(__file__).parents[2] / "docs" / "examples" / "data" / "keeper-log.txt"
WINDOW = 256
ERRORS = {
    WeightFormat.FLOAT32: 1e-5,
    WeightFormat.BFLOAT16: 0.05,
    WeightFormat.FLOAT16: 0.01,
    WeightFormat.INT8: 0.1,
    WeightFormat.INT4: 0.9,
}
"""Bounds of the error of a row of logits, as a share of its size: random layers amplify it."""
PLAIN = CONFIGS["llama, untied, grouped queries"]
KINDS = {
    "llama": PLAIN,
    "llama, tied": CONFIGS["llama, tied"],
    "gpt2": CONFIGS["gpt2, learned positions"],
    "mixtral": {**PLAIN, **EXPERTS, "model_type": "mixtral"},
}


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Of the median row: where a token is sent to another expert all its logits change."""
    return float(((actual - expected).norm(dim=-1) / expected.norm(dim=-1)).median())


@pytest.mark.parametrize("held", WeightFormat)
@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS.keys())
def test_logits_are_near_those_of_float32(
    tmp_path: Path, fields: dict[str, Any], held: WeightFormat
) -> None:
    model = random_model(fields)
    pipeline = Pipeline(write_parts(model, tmp_path), (2,), held=held)
    tokens = random_tokens(24)
    logits = pipeline.logits(tokens, chunks=(17,))
    assert error(logits, reference_logits(model, tokens)) < ERRORS[held]


@pytest.mark.slow
@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_other_architectures_are_near_too(tmp_path: Path, fields: dict[str, Any]) -> None:
    model = random_model(fields)
    parts = write_parts(model, tmp_path)
    tokens = random_tokens(24)
    plain = Pipeline(parts, (2,)).logits(tokens, chunks=(17,))
    packed = Pipeline(parts, (2,), held=WeightFormat.INT8).logits(tokens, chunks=(17,))
    assert 0 < error(packed, plain) < 3 * ERRORS[WeightFormat.INT8]


@pytest.mark.parametrize("held", WeightFormat)
@pytest.mark.parametrize("kind", ["llama", "llama, tied", "gpt2"])
def test_a_stage_counts_what_it_holds_and_takes_no_more_than_planned(
    tmp_path: Path, kind: str, held: WeightFormat
) -> None:
    parts = write_parts(random_model({**KINDS[kind], **_WIDER.get(kind, {})}), tmp_path)
    pipeline = Pipeline(parts, held=held)
    items = parts.shape.items(0, parts.shape.num_layers, embedding=True, head=True)
    planned = parts.shape.weight_bytes(items, DType.FLOAT32, held)
    (counted,) = pipeline.weight_bytes
    assert 0.6 * planned < counted <= planned


_WIDER = {
    "llama": {"hidden_size": 64, "intermediate_size": 96},
    "llama, tied": {"hidden_size": 64, "intermediate_size": 96},
    "gpt2": {"n_embd": 64},
}
"""Sizes of whole groups."""


def test_without_a_format_stages_stay_as_they_are(tmp_path: Path) -> None:
    parts = write_parts(random_model(CONFIGS["llama, tied"]), tmp_path)
    (counted,) = Pipeline(parts).weight_bytes
    assert counted == 4 * sum(parts.shape.parameters.values())


def test_rows_of_a_batch_equal_each_alone(tmp_path: Path) -> None:
    """Few rows and many take different kernels, which round differently."""
    parts = write_parts(random_model(PLAIN), tmp_path)
    pipeline = Pipeline(parts, (2,), num_slots=12, held=WeightFormat.INT8)
    tokens = [random_tokens(9, seed=seed) for seed in range(12)]
    alone = torch.stack([pipeline.logits(each, chunks=(8,))[-1] for each in tokens])
    for slot, each in enumerate(tokens):
        pipeline.forward([Span(slot=slot, start=0, count=8)], each[:8])
    spans = [Span(slot=slot, start=8, count=1) for slot in range(12)]
    together = pipeline.forward(spans, torch.stack([each[8] for each in tokens]))
    assert error(together, alone) < 0.02


def perplexity(pipeline: Pipeline, tokens: torch.Tensor) -> float:
    loss, count = 0.0, 0
    for first in range(0, len(tokens) - WINDOW + 1, WINDOW):
        window = tokens[first : first + WINDOW]
        logits = pipeline.forward([Span(slot=0, start=0, count=WINDOW)], window, all_logits=True)
        loss += float(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum"))
        count += WINDOW - 1
    return math.exp(loss / count)


@pytest.mark.slow
def test_int8_costs_less_than_a_hundredth_of_perplexity(smollm2: Parts) -> None:
    source = gguf_file()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    tokens = torch.tensor(tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"])
    found = {
        held: perplexity(Pipeline(smollm2, max_positions=WINDOW, num_slots=1, held=held), tokens)
        for held in (None, WeightFormat.INT8, WeightFormat.INT4)
    }
    assert found[WeightFormat.INT8] == pytest.approx(found[None], rel=0.01)
    assert found[WeightFormat.INT4] == pytest.approx(found[None], rel=0.05)
