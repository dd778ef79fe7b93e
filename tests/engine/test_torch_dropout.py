from __future__ import annotations

import pytest
import torch
from equivalence.tiny_models import CONFIGS, random_model

from edgepipe.engine.torch.dropout import draws, seed_of, seeded

CPU = torch.device("cpu")


def test_a_seed_depends_on_every_part() -> None:
    seeds = {seed_of(*parts) for parts in ((1, 2), (2, 1), (12,), (1, 2, 0), (1, "2", -1))}
    assert len(seeds) == 5
    assert all(0 <= seed < 1 << 63 for seed in seeds)
    assert seed_of(5, "model.layers.0") == seed_of(5, "model.layers.0")


def test_what_is_drawn_within_follows_from_the_seed_and_leaves_no_trace() -> None:
    before = torch.random.get_rng_state()
    with seeded(CPU, 7):
        first = torch.rand(3)
        with seeded(CPU, 8):
            inner = torch.rand(3)
        rest = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with seeded(CPU, 7):
        assert torch.equal(torch.rand(6), torch.cat([first, rest]))
    assert not torch.equal(inner, first)


def test_generators_are_restored_after_a_failure() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="stop"), seeded(CPU, 7):
        raise ValueError("stop")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("llama, tied", {}, False),
        ("llama, tied", {"attention_dropout": 0.1}, True),
        ("gpt2, learned positions", {}, True),
        (
            "gpt2, learned positions",
            {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
            False,
        ),
    ],
)
def test_a_model_without_dropout_draws_nothing(
    kind: str, changes: dict[str, float], expected: bool
) -> None:
    assert draws(random_model({**CONFIGS[kind], **changes})) is expected
