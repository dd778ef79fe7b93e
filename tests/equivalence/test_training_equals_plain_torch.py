"""Stages that train equal a plain loop over the whole model, whatever the cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.test_other_architectures import OTHERS
from equivalence.tiny_models import CONFIGS, Parts, random_model, write_parts
from equivalence.training_chain import Chain, PlainLoop, batch_of, training_of

STEPS = 3
NO_DROPOUT = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "opt": {"dropout": 0.0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiny:
    """A model's parts, and what the plain loop came to with it."""

    parts: Parts
    losses: list[float]
    weights: Mapping[str, torch.Tensor]


def tiny_of(fields: dict[str, Any], folder: Path) -> Tiny:
    model = random_model({**fields, **NO_DROPOUT.get(fields["model_type"], {})})
    parts = write_parts(model, folder)
    plain = PlainLoop(copy.deepcopy(model))
    losses = [plain.step(batch_of(step)) for step in range(STEPS)]
    return Tiny(parts=parts, losses=losses, weights=plain.weights())


def check(tiny: Tiny, chain: Chain) -> None:
    losses = [chain.step(step, batch_of(step)) for step in range(STEPS)]
    assert losses == pytest.approx(tiny.losses, abs=1e-5)
    actual = chain.weights()
    assert actual.keys() == tiny.weights.keys()
    for name, tensor in actual.items():
        torch.testing.assert_close(tensor, tiny.weights[name], atol=1e-4, rtol=0, msg=name)
    assert not chain.broken


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny_of(request.param, tmp_path_factory.mktemp("parts"))


@pytest.mark.parametrize("cuts", [(), (1, 3)], ids=str)
def test_losses_and_weights_of_several_steps(tiny: Tiny, cuts: tuple[int, ...]) -> None:
    check(tiny, Chain(tiny.parts, training_of(), cuts))


def test_embedding_and_head_alone_and_layers_computed_again(tiny: Tiny) -> None:
    check(tiny, Chain(tiny.parts, training_of(recompute=True), (2,), apart=True))


@pytest.mark.slow
@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_architectures_that_there_is_no_code_for(tmp_path: Path, fields: dict[str, Any]) -> None:
    tiny = tiny_of(fields, tmp_path)
    for cuts, recompute in (((), True), ((1, 3), False)):
        check(tiny, Chain(tiny.parts, training_of(recompute=recompute), cuts))
