"""A stage's model, its weights read and the rest of the model emptied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from edgepipe.core.frame import DType
from edgepipe.engine.base import Progress, StageSpec
from edgepipe.engine.torch.anatomy import Anatomy, Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.merging import adapter_scale
from edgepipe.engine.torch.packing import Packing
from edgepipe.engine.torch.stage_model import empty_foreign_parts, rebuild_buffers
from edgepipe.engine.torch.weights import Loader, stage_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltStage:
    """A model cut to a stage, and the bytes that its weights take on the device."""

    model: Any
    anatomy: Anatomy
    cut: Cut
    weight_bytes: int


def build_stage(
    spec: StageSpec,
    dtype: DType,
    device: torch.device,
    progress: Progress,
    *,
    packs: bool = False,
) -> BuiltStage:
    """Build the stage on meta and read its weights, held as `dtype`.

    With `packs`, linear modules hold theirs in the spec's weight format and cannot be trained.
    Raises ModelError where the model cannot be cut, DamagedWeights where its weights are not sound.
    """
    model = build_on_meta(read_config(spec.config), dtype)
    anatomy = examine(model)
    cut = Cut(first=spec.first, end=spec.end, embedding=spec.embedding, head=spec.head)
    assert 0 <= cut.first <= cut.end <= anatomy.num_layers, "a stage's layers are the model's"
    items = stage_weights(model, anatomy, cut)
    held = spec.weight_format if packs else None
    packing = Packing(model, anatomy, cut, held, device) if held else None
    empty_foreign_parts(model, anatomy, cut)
    loader = Loader(
        model,
        anatomy,
        config=spec.config,
        device=device,
        adapter_scale=adapter_scale(spec.options),
        packing=packing,
    )
    weight_bytes = loader.load(items, spec.weights, progress)
    rebuild_buffers(model, device)
    return BuiltStage(model=model, anatomy=anatomy, cut=cut, weight_bytes=weight_bytes)
