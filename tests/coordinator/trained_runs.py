"""Runs whose last checkpoint holds a tiny model's trained values, by unit, with their moments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from coordinator.written_checkpoints import write_checkpoint

from edgepipe.coordinator.manifest import config_hash
from edgepipe.coordinator.models import resolve
from edgepipe.core.frame import DType
from edgepipe.core.training import Adapters
from edgepipe.core.work import TrainMode
from edgepipe.engine.torch.probe import model_shape

Weights = dict[str, torch.Tensor]

_LAYER = re.compile(r"(?:model\.layers|transformer\.h)\.(\d+)\.")


def by_unit(weights: Weights, head: frozenset[str]) -> dict[str, Weights]:
    """As stages send it: each tensor with its moments, and a count of the steps."""
    units: dict[str, Weights] = {}
    for name, tensor in weights.items():
        layer = _LAYER.match(name)
        end = "head" if name in head else "embedding"
        unit = units.setdefault(f"layer-{int(layer[1]):05d}" if layer else end, {})
        unit |= {
            name: tensor.detach().contiguous(),
            f"{name}#exp_avg": torch.zeros_like(tensor),
            f"{name}#exp_avg_sq": torch.zeros_like(tensor),
            "#step": torch.tensor([60]),
        }
    return units


def write_run(
    run: Path,
    base: Path,
    weights: Weights,
    *,
    home: Path,
    adapters: Adapters | None,
    **changes: Any,
) -> Path:
    """A run of the model in `base` that has come to `weights`."""
    model = resolve(str(base), home=home)
    shape = model_shape("tiny", model.config)
    facts = {
        "mode": TrainMode.FULL if adapters is None else TrainMode.LORA,
        "model": str(base),
        "num_layers": shape.num_layers,
        "config_sha256": config_hash(model.config),
        "dtype": DType.FLOAT32,
        "adapters": adapters,
        **changes,
    }
    write_checkpoint(run, by_unit(weights, frozenset(shape.head.tensors)), **facts)
    return run


def adapter_of(adapted: Any) -> Weights:
    """The tensors of a model that PEFT has adapted, as a checkpoint names them."""
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix).replace(".default.", "."): tensor
        for name, tensor in adapted.named_parameters()
        if "lora_" in name
    }
