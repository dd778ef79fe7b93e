"""A step of the whole model in this process, in plain torch: what a pipeline's is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from edgepipe.coordinator.one_step import OneStep, Trial
from edgepipe.coordinator.parts import Part
from edgepipe.core.dataset import Example
from edgepipe.core.frame import DType
from edgepipe.core.model import ModelShape
from edgepipe.core.training import IGNORED
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.build import BuiltStage, build_stage
from edgepipe.engine.torch.units import trained_units


def reference_step(
    shape: ModelShape,
    config: Mapping[str, Any],
    parts: Sequence[Part],
    dtype: DType,
    trial: Trial,
) -> OneStep:
    """The loss and gradients of a trial: one sequence after another, none of them padded.

    Weights are float32; a smaller `dtype` is what is computed in, by autocast.
    """
    built = _whole_model(shape, config, parts)
    built.model.requires_grad_(requires_grad=True)
    loss = sum(_backward(built.model, each, dtype, trial.num_targets) for each in trial.examples)
    return OneStep(
        loss=loss / trial.num_targets,
        gradients={
            name: parameter.grad
            for unit in trained_units(built).values()
            for name, parameter in unit.items()
            if parameter.grad is not None
        },
    )


def _whole_model(shape: ModelShape, config: Mapping[str, Any], parts: Sequence[Part]) -> BuiltStage:
    with tempfile.TemporaryDirectory() as folder:
        spec = StageSpec(
            config=config,
            first=0,
            end=shape.num_layers,
            embedding=True,
            head=True,
            dtype=DType.FLOAT32,
            num_slots=1,
            max_positions=1,
            weights=tuple(part.write(Path(folder)) for part in parts),
        )
        return build_stage(spec, DType.FLOAT32, torch.device("cpu"), lambda _done, _total: None)


def _backward(model: Any, example: Example, dtype: DType, num_targets: int) -> float:
    """Add a sequence's gradients; the sum of its targets' cross entropy."""
    ids, targets = (
        torch.from_numpy(each.astype(np.int64)) for each in (example.token_ids, example.targets)
    )
    with torch.autocast("cpu", dtype=torch_dtype(dtype), enabled=dtype is not DType.FLOAT32):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
    loss = cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    torch.autograd.backward(loss / num_targets)
    return float(loss.detach())
