"""Tiny models as folders, PEFT adapters of them with random values, and what PEFT gives."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from equivalence.tiny_models import CONFIGS, random_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

TARGETS = {
    "llama, tied": ("q_proj", "v_proj", "down_proj"),
    "llama, untied, grouped queries": ("k_proj", "up_proj"),
    "gpt2, learned positions": ("c_attn", "c_proj"),
}
"""Linear modules, some of them square; in GPT-2 they are Conv1D."""


def write_model(folder: Path, kind: str) -> Any:
    """A random model of a kind as a Hugging Face folder; returns the model."""
    model = random_model(CONFIGS[kind])
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in model.all_tied_weights_keys:
        state.pop(name, None)
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return model


def write_adapter(folder: Path, model: Any, *targets: str, **changes: Any) -> Any:
    """A random adapter as PEFT writes it; returns the adapted model."""
    fields = {"r": 4, "lora_alpha": 6, "lora_dropout": 0.1, "task_type": "CAUSAL_LM", **changes}
    config = LoraConfig(target_modules=list(targets), **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own deprecations, and Conv1D
        adapted = get_peft_model(model, config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, tensor in adapted.named_parameters():
                if "lora_" in name:
                    tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
        adapted.save_pretrained(folder)
    return adapted


def load_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter, as anybody loads one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(model, folder).eval()
