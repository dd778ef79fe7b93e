"""A real model from a real GGUF file: the tokens of transformers' own loader, greedily."""

from __future__ import annotations

import pytest
import torch
from equivalence.tiny_models import Parts, Pipeline
from transformers import DynamicCache

from edgepipe.core.frame import Span

NUM_TOKENS = 32
PROMPT = torch.tensor([504, 3575, 282, 4649, 314])  # "The capital of France is"


@pytest.fixture(scope="module")
def expected(smollm2_whole: torch.nn.Module) -> list[int]:
    """What transformers generates in one process, EOS included."""
    whole = smollm2_whole
    cache, step, tokens = DynamicCache(config=whole.config), PROMPT, []
    with torch.inference_mode():
        for _ in range(NUM_TOKENS):
            logits = whole(input_ids=step[None], past_key_values=cache, use_cache=True).logits
            step = logits[0, -1:].argmax(-1)
            tokens.append(int(step))
    return tokens


@pytest.mark.parametrize("cuts", [(), (9, 20)], ids=["one stage", "three stages"])
def test_greedy_tokens_equal(smollm2: Parts, expected: list[int], cuts: tuple[int, ...]) -> None:
    pipeline = Pipeline(smollm2, cuts, num_slots=1, max_positions=64)
    logits = pipeline.forward([Span(slot=0, start=0, count=len(PROMPT))], PROMPT)
    generated = [logits.argmax(-1)]
    for position in range(len(PROMPT), len(PROMPT) + NUM_TOKENS - 1):
        span = Span(slot=0, start=position, count=1)
        generated.append(pipeline.forward([span], generated[-1]).argmax(-1))
    assert torch.cat(generated).tolist() == expected
