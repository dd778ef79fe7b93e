"""SmolLM2 from its GGUF file on ONNX Runtime: tokens of transformers, and what rounding costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.onnx_stages import OnnxPipeline
from equivalence.smollm2_parts import gguf_file
from equivalence.tiny_models import Parts
from transformers import AutoTokenizer, DynamicCache

from edgepipe.core.frame import Span
from edgepipe.core.weight_format import WeightFormat

pytestmark = pytest.mark.slow
TEXT = Path(__file__).parents[2] / "docs" / "examples" / "data" / "keeper-log.txt"
NUM_TOKENS = 16
NUM_PROMPTS = 20
WINDOW = 256
TIE = 1e-4
"""Logits closer than this may swap places in float32."""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    source = gguf_file()
    return AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("built")


def prompts(tokenizer: Any) -> list[torch.Tensor]:
    lines = [line for line in TEXT.read_text(encoding="utf-8").splitlines() if len(line) > 80]
    words = [line.split()[: 5 + 2 * number] for number, line in enumerate(lines[:NUM_PROMPTS])]
    return [torch.tensor(tokenizer(" ".join(line))["input_ids"]) for line in words]


def greedy(whole: Any, prompt: torch.Tensor) -> tuple[list[int], list[float]]:
    """Tokens, and by how much each one's logit leads the next best."""
    cache, step, tokens, leads = DynamicCache(config=whole.config), prompt, [], []
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            logits = whole(input_ids=step[None], past_key_values=cache, use_cache=True).logits
            best = logits[0, -1].topk(2)
            leads.append(float(best.values[0] - best.values[1]))
            tokens.append(int(best.indices[0]))
            step = best.indices[:1]
    return tokens, leads


def generate(pipeline: OnnxPipeline, group: Sequence[torch.Tensor]) -> list[list[int]]:
    """Greedy tokens of a group that decodes together."""
    starts = [len(prompt) for prompt in group]
    firsts = [
        pipeline.forward([Span(slot=slot, start=0, count=len(prompt))], prompt).argmax(-1)
        for slot, prompt in enumerate(group)
    ]
    rows = [torch.cat(firsts)]
    for step in range(NUM_TOKENS - 1):
        spans = [Span(slot=slot, start=start + step, count=1) for slot, start in enumerate(starts)]
        rows.append(pipeline.forward(spans, rows[-1]).argmax(-1))
    return torch.stack(rows, dim=1).tolist()


@pytest.mark.parametrize("cuts", [(), (9, 20)], ids=["one stage", "three stages"])
def test_greedy_tokens_of_groups_equal(
    smollm2: Parts, smollm2_whole: Any, tokenizer: Any, built: Path, cuts: tuple[int, ...]
) -> None:
    pipeline = OnnxPipeline(smollm2, cuts, num_slots=4, max_positions=128, cache=built)
    texts = prompts(tokenizer)
    assert len(texts) == NUM_PROMPTS
    actual = [
        tokens
        for first in range(0, NUM_PROMPTS, 4)
        for tokens in generate(pipeline, texts[first : first + 4])
    ]
    for prompt, ours in zip(texts, actual, strict=True):
        theirs, leads = greedy(smollm2_whole, prompt)
        differing = [at for at in range(NUM_TOKENS) if ours[at] != theirs[at]]
        assert not differing or leads[differing[0]] < TIE


def perplexity(pipeline: OnnxPipeline, tokens: torch.Tensor) -> float:
    loss, count = 0.0, 0
    for first in range(0, len(tokens) - WINDOW + 1, WINDOW):
        window = tokens[first : first + WINDOW]
        logits = pipeline.forward([Span(slot=0, start=0, count=WINDOW)], window, all_logits=True)
        loss += float(torch.nn.functional.cross_entropy(logits[:-1], window[1:], reduction="sum"))
        count += WINDOW - 1
    return math.exp(loss / count)


def test_blocks_of_the_file_cost_less_than_a_hundredth(
    smollm2: Parts, tokenizer: Any, built: Path
) -> None:
    """Its matrices are Q4_1 and its head is Q8_0: int4 keeps both, int8 rounds the former."""
    tokens = torch.tensor(tokenizer(TEXT.read_text(encoding="utf-8"))["input_ids"])
    found = {
        held: perplexity(
            OnnxPipeline(smollm2, cache=built, held=held, num_slots=1, max_positions=WINDOW),
            tokens,
        )
        for held in (WeightFormat.FLOAT32, WeightFormat.INT8, WeightFormat.INT4)
    }
    for held in (WeightFormat.INT8, WeightFormat.INT4):
        assert found[held] == pytest.approx(found[WeightFormat.FLOAT32], rel=0.01)
