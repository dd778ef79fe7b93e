"""Adapters on stages equal peft's own model of the whole in one process."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import CONFIGS, random_model, write_parts
from equivalence.training_chain import Chain, PlainLoop, batch_of, training_of
from peft import LoraConfig, get_peft_model

from edgepipe.core.training import Adapters
from edgepipe.core.work import TrainMode
from edgepipe.engine.torch.linear import leaf_names

# peft asks transformers in an old way, when it wraps a whole model.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
STEPS = 2
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


def peft_model(model: Any, adapters: Adapters, weights: dict[str, torch.Tensor]) -> Any:
    """With the adapters that the stages began with."""
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=int(adapters.alpha),
        target_modules=list(adapters.target_modules),
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    whole = get_peft_model(copy.deepcopy(model), config)
    own = {plain(name): p for name, p in whole.named_parameters() if p.requires_grad}
    assert own.keys() == weights.keys()
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name])
    return whole


def plain(name: str) -> str:
    return re.sub(r"\.(lora_[AB])\.default\.", r".\1.", name).removeprefix("base_model.model.")


@pytest.mark.parametrize("kind", ["llama, tied", "llama, untied, grouped queries", "gpt2"])
def test_losses_and_adapters_of_several_steps(tmp_path: Path, kind: str) -> None:
    gpt2 = {**CONFIGS["gpt2, learned positions"], **NO_DROPOUT}
    model = random_model(gpt2 if kind == "gpt2" else CONFIGS[kind])
    parts = write_parts(model, tmp_path)
    leaves = leaf_names(parts.config)
    adapters = Adapters(rank=4, alpha=8.0, dropout=0.0, target_modules=leaves)
    for cuts, recompute in (((), False), ((1, 3), True)):
        training = training_of(mode=TrainMode.LORA, adapters=adapters, recompute=recompute)
        chain = Chain(parts, training, cuts, apart=bool(cuts))
        loop = PlainLoop(peft_model(model, adapters, chain.weights()))
        expected = [loop.step(batch_of(step)) for step in range(STEPS)]
        losses = [chain.step(step, batch_of(step)) for step in range(STEPS)]
        assert losses == pytest.approx(expected, abs=1e-5)
        theirs = {plain(name): tensor for name, tensor in loop.weights().items()}
        for name, tensor in chain.weights().items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=0, msg=name)
