"""The engine protocol, and the values it is given.

An engine is driven by one thread. It never sees a socket, a job or an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from edgepipe.core.frame import DType, Span
from edgepipe.core.weight_format import WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """The part of a model that one engine runs.

    `config` is the Hugging Face config as a dict (never code). `weights` are part files, each a
    safetensors file (see edgepipe.weights in DESIGN §2), that together hold every tensor of the
    stage; other tensors in them are ignored. Matrices are held in `weight_format`, or as `dtype`
    where that is None.
    """

    config: Mapping[str, Any]
    first: int
    end: int
    embedding: bool
    head: bool
    dtype: DType
    num_slots: int
    max_positions: int
    weights: tuple[Path, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    weight_format: WeightFormat | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a stage holds once it is loaded, in bytes on its device."""

    weight_bytes: int
    kv_bytes: int


Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a stage loads."""


class Engine(Protocol):
    """Runs one stage. Raises ModelError or DamagedWeights from `load`."""

    def load(self, spec: StageSpec, progress: Progress) -> Loaded:
        """Build the stage and read its weights; peak memory stays near the weights' own size."""
        ...

    def forward(
        self, spans: Sequence[Span], inputs: torch.Tensor, *, all_logits: bool = False
    ) -> torch.Tensor:
        """Run the stage over the packed rows of `spans` and extend their caches.

        Args:
            spans: what the rows are; a span that starts below its slot's cached length
                truncates that slot first.
            inputs: token ids int64 [rows] on a stage with the embedding, else the hidden state
                [rows, hidden], rows = sum of the spans' counts, in the spans' order.
            all_logits: on a stage with the head, logits of every row and not of the last row
                of each span.

        Returns:
            The hidden state [rows, hidden] in the stage's dtype, or, with the head, logits
            float32 [spans or rows, vocab].
        """
        ...

    def export_state(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The slot's keys and values, each [layers, kv_head, position, head_dim], as cached."""
        ...

    def import_state(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Replace a slot's cache by what `export_state` gave."""
        ...

    def unload(self) -> None:
        """Free the weights and the cache."""
        ...
