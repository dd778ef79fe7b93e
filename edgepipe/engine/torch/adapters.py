"""LoRA adapters beside the linear modules of a stage's own layers, as peft has them.

What an adapter begins with follows from the run's seed and its module's full name, so it is the
same however the model is cut.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers.pytorch_utils import Conv1D

from edgepipe.core.training import Adapters
from edgepipe.engine.torch.build import BuiltStage
from edgepipe.engine.torch.dropout import seed_of
from edgepipe.engine.torch.linear import leaf_of, linear_modules

_NAME = "default"


def add_adapters(built: BuiltStage, adapters: Adapters, seed: int) -> None:
    """Wrap the linear modules that are asked for. Adapters are float32 and the only trainable."""
    found = linear_modules(built.model, built.anatomy.stack, built.cut.layers)
    targets = {
        name: module for name, module in found.items() if leaf_of(name) in adapters.target_modules
    }
    if not targets:
        return
    config = LoraConfig(
        r=adapters.rank,
        lora_alpha=adapters.alpha,
        lora_dropout=adapters.dropout,
        target_modules=list(targets),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in targets.values()),
    )
    inject_adapter_in_model(config, built.model, _NAME)
    for name in targets:
        _begin(built.model.get_submodule(name), seed_of(seed, name))


def _begin(layer: Any, seed: int) -> None:
    """Hu et al. 2021: A is drawn as a linear module's weight is, B is zero."""
    layer.cast_input_dtype_enabled = False  # autocast does it, without a float32 copy
    down, up = layer.lora_A[_NAME].float(), layer.lora_B[_NAME].float()
    bound = down.in_features**-0.5
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        down.weight.copy_(
            torch.empty(down.weight.shape).uniform_(-bound, bound, generator=generator)
        )
        up.weight.zero_()


def plain_name(name: str) -> str:
    """A parameter's name without the adapter's own, as a checkpoint of peft has it."""
    return name.replace(f".lora_A.{_NAME}.", ".lora_A.").replace(f".lora_B.{_NAME}.", ".lora_B.")
