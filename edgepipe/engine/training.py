"""The engine protocol of training. An engine is driven by one thread, and never sees a socket.

of one microbatch    forward ─▶ … ─▶ backward          in any order of microbatches
of one step          all of them ─▶ gradients ─▶ apply | discard
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from edgepipe.core.training import Broken, Gradients, Microbatch, Purpose, Training, Update
from edgepipe.engine.base import Loaded, Progress, StageSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What the last stage learns from: int64 [rows], and the loss of a row in the step's loss.

    The loss that is differentiated is Σ cross entropy of the rows · `weight`: 1 / the targets of
    the whole step, times the loss scale.
    """

    ids: torch.Tensor
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """What a forward gave.

    `hidden` [rows, hidden] in the stage's dtype, without a graph; or, on the last stage,
    `loss_sum`, the sum of the rows' cross entropy in nats, unweighted.
    """

    hidden: torch.Tensor | None = None
    loss_sum: float | None = None
    broken: Broken | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backwarded:
    """What a backward gave.

    `gradient` of the stage's input [rows, hidden] in the stage's dtype; None on the first stage.
    """

    gradient: torch.Tensor | None = None
    broken: Broken | None = None


class TrainingEngine(Protocol):
    """Trains one stage."""

    def load(self, spec: StageSpec, training: Training, progress: Progress) -> Loaded:
        """Build the stage, read its weights, add its adapters. Raises ModelError, DamagedWeights.

        `spec.num_slots` and `spec.max_positions` mean nothing here.
        """
        ...

    def forward(
        self,
        microbatch: Microbatch,
        inputs: torch.Tensor,
        *,
        purpose: Purpose,
        targets: Targets | None,
    ) -> Forwarded:
        """Run the stage over a microbatch, and keep what its backward needs unless it evaluates.

        Args:
            microbatch: the sequences' lengths; it seeds what is random.
            inputs: token ids int64 [rows] on the first stage, else the hidden state
                [rows, hidden] in any float dtype.
            purpose: evaluation has no dropout, no graph and no backward.
            targets: on the last stage.
        """
        ...

    def backward(self, microbatch: int, gradient: torch.Tensor | None) -> Backwarded:
        """Accumulate gradients of a microbatch.

        `gradient` is of the stage's output [rows, hidden], in any float dtype; None on the last.
        """
        ...

    def gradients(self) -> Gradients:
        """What all backwards since the last `apply` or `discard` came to."""
        ...

    def rehearse(self) -> float:
        """Set the gradients aside, or forget them and those that were set aside before.

        Returns the product of both, summed over all tensors; 0 the first time.
        """
        ...

    def apply(self, update: Update) -> None:
        """Scale the gradients, step the optimizer, forget the gradients."""
        ...

    def discard(self) -> None:
        """Forget the gradients, and every forward whose backward has not come."""
        ...

    def unload(self) -> None:
        """Free all that is held."""
        ...

    # ---------------------------------------------------------- a tied embedding across machines

    def embedding_gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """On the first stage of a tied model, the rows of the embedding that have a gradient.

        Returns ids int64 [n], rising, and their gradients float32 [n, hidden]; at least one.
        """
        ...

    def add_embedding_gradient(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """On the last stage, which owns the embedding: add what `embedding_gradient` gave."""
        ...

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """On the last stage: those rows of the embedding, float32 [n, hidden]."""
        ...

    def set_embedding_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """On the first stage: take the owner's rows."""
        ...

    # ------------------------------------------------------------------------------------ state

    def units(self) -> tuple[str, ...]:
        """What the stage's trainable state is kept by: "embedding", "layer-00007", "head".

        A unit belongs to one stage, however the model is cut; a tied embedding is the head's.
        """
        ...

    def export_state(self, unit: str) -> Mapping[str, torch.Tensor]:
        """A unit's tensors, on the host.

        `NAME` is a trained weight, by its name in the whole model (an adapter's as in
        `model.layers.0.self_attn.q_proj.lora_A.weight`), `NAME#exp_avg` and `NAME#exp_avg_sq` are
        its moments, and `#step`, int64 [1], counts the optimizer's steps so far.

        They may share the engine's memory: read them before the next `apply`.
        """
        ...

    def import_state(self, unit: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what `export_state` gave. Raises DamagedWeights where it is not this unit's."""
        ...
