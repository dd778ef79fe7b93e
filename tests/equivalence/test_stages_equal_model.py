"""Any cut of a model gives the logits of transformers in one process, to 1e-4 in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgepipe.core.frame import Span

from equivalence.tiny_models import (  # isort: skip
    CONFIGS,
    Parts,
    Pipeline,
    random_model,
    random_tokens,
    reference_logits,
    write_parts,
)

CUTS = [(), (2,), (1,), (3,), (1, 3), (2, 3), (1, 2, 3)]
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def tiny(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Parts]:
    model = random_model(request.param)
    folder: Path = tmp_path_factory.mktemp("parts")
    return model, write_parts(model, folder)


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_logits_of_a_cut_equal_the_whole(tiny: tuple[Any, Parts], cuts: tuple[int, ...]) -> None:
    model, parts = tiny
    tokens = random_tokens(24)
    expected = reference_logits(model, tokens)
    assert expected.std() >= 1
    actual = Pipeline(parts, cuts).logits(tokens, slot=1, chunks=(9, 5, 2))
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_embedding_and_head_may_stand_alone(tiny: tuple[Any, Parts]) -> None:
    model, parts = tiny
    tokens = random_tokens(20, seed=1)
    actual = Pipeline(parts, (3,), apart=True).logits(tokens, chunks=(16,))
    torch.testing.assert_close(actual, reference_logits(model, tokens), **TOLERANCE)


def test_rows_of_unequal_length_decode_together(tiny: tuple[Any, Parts]) -> None:
    model, parts = tiny
    pipeline = Pipeline(parts, (2,))
    prompts = [random_tokens(count, seed=count) for count in (11, 3, 17, 6)]
    expected = [reference_logits(model, prompt) for prompt in prompts]
    for slot, prompt in enumerate(prompts):
        pipeline.forward(
            [Span(slot=slot, start=0, count=len(prompt) - 2)], prompt[: len(prompt) - 2]
        )
    for back in (2, 1):
        spans = [
            Span(slot=slot, start=len(prompt) - back, count=1)
            for slot, prompt in enumerate(prompts)
        ]
        tokens = torch.stack([prompt[-back] for prompt in prompts])
        actual = pipeline.forward(spans, tokens)
        torch.testing.assert_close(
            actual, torch.stack([rows[-back] for rows in expected]), **TOLERANCE
        )


@pytest.mark.parametrize("all_logits", [False, True])
def test_any_mix_of_spans_is_right(tiny: tuple[Any, Parts], *, all_logits: bool) -> None:
    """Long and short spans, of slots in any order and with gaps, some of them fresh."""
    model, parts = tiny
    pipeline = Pipeline(parts, (1,), num_slots=8)
    starts = {6: 0, 2: 13, 0: 4, 5: 0, 3: 9}
    counts = {6: 12, 2: 1, 0: 3, 5: 5, 3: 1}
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
    follow = [Span(slot=span.slot, start=span.end, count=1) for span in spans]
    again = pipeline.forward(follow, torch.full((len(spans),), 7))
    longer = [torch.cat([sequences[slot], torch.tensor([7])]) for slot in starts]
    torch.testing.assert_close(
        again, torch.stack([reference_logits(model, one)[-1] for one in longer]), **TOLERANCE
    )


def test_a_span_below_the_cached_length_truncates(tiny: tuple[Any, Parts]) -> None:
    model, parts = tiny
    pipeline = Pipeline(parts, (2,))
    wrong, right = random_tokens(15, seed=3), random_tokens(12, seed=4)
    right[:6] = wrong[:6]
    pipeline.logits(wrong, chunks=(15,))
    actual = pipeline.forward([Span(slot=0, start=6, count=6)], right[6:], all_logits=True)
    torch.testing.assert_close(actual, reference_logits(model, right)[6:], **TOLERANCE)


def test_a_slot_moves_to_another_pipeline(tiny: tuple[Any, Parts]) -> None:
    model, parts = tiny
    tokens = random_tokens(14, seed=5)
    source, target = Pipeline(parts, (1,)), Pipeline(parts, (1,))
    source.forward([Span(slot=2, start=0, count=13)], tokens[:13])
    for old, new in zip(source.engines, target.engines, strict=True):
        new.import_state(0, *old.export_state(2))
    actual = target.forward([Span(slot=0, start=13, count=1)], tokens[13:])
    torch.testing.assert_close(actual[0], reference_logits(model, tokens)[-1], **TOLERANCE)
