"""Checkpoints of a run that was never trained, as stages would have sent them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from edgepipe.coordinator.checkpoint_writer import CheckpointWriter
from edgepipe.coordinator.manifest import Manifest
from edgepipe.core.frame import DType
from edgepipe.core.loss_scale import LossScale
from edgepipe.core.shuffle import Cursor
from edgepipe.core.training import AdamW, Adapters
from edgepipe.core.work import TrainMode
from edgepipe.engine.state_file import chunks_of

Units = Mapping[str, Mapping[str, torch.Tensor]]

FACTS = Manifest(
    step=60,
    mode=TrainMode.LORA,
    model="/models/tiny",
    num_layers=4,
    config_sha256="ab" * 32,
    dtype=DType.FLOAT16,
    seed=(1 << 64) - 1,
    cursor=Cursor(epoch=2, position=17),
    optimizer=AdamW(weight_decay=0.1),
    adapters=Adapters(rank=4, alpha=8.0, dropout=0.1, target_modules=("q_proj", "v_proj")),
    loss_scale=LossScale(scale=65536.0, good_steps=12),
)


def units(seed: int = 0, num_values: int = 300) -> dict[str, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    names = ("embedding", *(f"layer-{layer:05d}" for layer in range(4)), "head")
    return {
        unit: {
            f"{unit}.w": torch.randn(num_values, generator=generator),
            "#step": torch.tensor([seed]),
        }
        for unit in names
    }


def write_checkpoint(run: Path, state: Units, **changes: Any) -> Path:
    """Every unit a piece at a time, all of them at once."""
    with CheckpointWriter(run, replace(FACTS, **changes), state.keys()) as writer:
        for pieces in zip_longest(*(chunks_of(tensors) for tensors in state.values())):
            for unit, piece in zip(state, pieces, strict=True):
                if piece is not None:
                    writer.append(unit, piece)
        for unit in state:
            writer.finish(unit)
        return writer.commit()
