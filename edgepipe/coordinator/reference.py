"""The whole model in this process: what a pipeline is compared with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from edgepipe.coordinator.parts import Part
from edgepipe.core.frame import DType, Span
from edgepipe.core.model import ModelShape
from edgepipe.engine.base import StageSpec
from edgepipe.engine.torch.engine import TorchEngine

Logits = npt.NDArray[np.float32]


def reference_logits(
    shape: ModelShape,
    config: dict[str, object],
    parts: Sequence[Part],
    dtype: DType,
    prompt_ids: Sequence[int],
) -> Logits:
    """Logits float32 [tokens, vocab] of a prompt, from one engine that holds every layer."""
    engine = TorchEngine("cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = tuple(part.write(Path(folder)) for part in parts)
        spec = StageSpec(
            config=config,
            first=0,
            end=shape.num_layers,
            embedding=True,
            head=True,
            dtype=dtype,
            num_slots=1,
            max_positions=len(prompt_ids),
            weights=files,
        )
        engine.load(spec, lambda _done, _total: None)
    span = Span(slot=0, start=0, count=len(prompt_ids))
    logits = engine.forward([span], torch.tensor(prompt_ids), all_logits=True)
    rows: Logits = logits.numpy()
    return rows
