"""Forwards and backwards of a stage's microbatches, in any order.

forward    rows ─▶ padded, a leaf of the graph ─▶ own layers ─▶ rows, without the graph
backward   rows' gradient ─▶ the graph's end …                  … the leaf's gradient ─▶ rows
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from edgepipe.core.training import IGNORED, Broken, Microbatch, Training
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.build import BuiltStage
from edgepipe.engine.torch.cross_entropy import cross_entropy_sum
from edgepipe.engine.torch.layer_calls import LayerCalls
from edgepipe.engine.torch.padding import Padding
from edgepipe.engine.torch.precision import Precision
from edgepipe.engine.torch.stage_model import StageModel
from edgepipe.engine.training import Backwarded, Forwarded, Targets


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What a microbatch's backward needs. `end` is None where nothing is trained before it."""

    padding: Padding
    entry: torch.Tensor
    end: GradientEdge | None
    dtype: torch.dtype
    weight: float


class Passes:
    """Runs microbatches through a stage whose trained tensors want gradients."""

    def __init__(self, built: BuiltStage, training: Training, device: torch.device) -> None:
        self._model = built.model
        self._head = built.cut.head
        self._embedding = built.cut.embedding
        self._device = device
        self._dtype = torch_dtype(training.dtype)
        held = (p.dtype for p in built.model.parameters() if p.is_floating_point())
        self._held_dtype = next(held, self._dtype)
        self._precision = Precision(device, self._dtype)
        self._calls = LayerCalls(built, training, device)
        self._stage = StageModel(built.model, built.anatomy, built.cut)
        self._watched = _watched(built.model)
        self._kept: dict[int, _Kept] = {}

    def forward(
        self, microbatch: Microbatch, inputs: torch.Tensor, targets: Targets | None
    ) -> Forwarded:
        """Run a microbatch, and keep what its backward needs."""
        padding = Padding(microbatch.lengths, self._device)
        entry = self._entry(padding.pad(inputs.to(self._device)))
        entry.requires_grad_(not self._embedding)
        self._model.train()
        with self._precision.computing(training=True), self._calls.training(microbatch):
            output = self._run(padding, entry, targets)
        self._kept[microbatch.index] = _Kept(
            padding=padding,
            entry=entry,
            end=get_gradient_edge(output) if output.requires_grad else None,
            dtype=output.dtype,
            weight=targets.weight if targets else 1.0,
        )
        return self._forwarded(microbatch, padding, output.detach())

    @torch.no_grad()
    def evaluate(
        self, microbatch: Microbatch, inputs: torch.Tensor, targets: Targets | None
    ) -> Forwarded:
        """Run a microbatch without dropout and without a graph."""
        padding = Padding(microbatch.lengths, self._device)
        entry = self._entry(padding.pad(inputs.to(self._device)))
        self._model.eval()
        with self._precision.computing(training=False):
            output = self._run(padding, entry, targets)
        return self._forwarded(microbatch, padding, output)

    def backward(self, microbatch: int, gradient: torch.Tensor | None) -> Backwarded:
        """Accumulate gradients of a microbatch that was run."""
        kept = self._kept.pop(microbatch)
        if kept.end is None:
            return Backwarded()
        self._model.train()
        torch.autograd.backward((kept.end,), (self._end_gradient(kept, gradient),))
        if self._embedding:
            watched = [p.grad for p in self._watched if p.grad is not None]
            sound = not watched or _is_finite(torch.nn.utils.get_total_norm(watched))
            return Backwarded(broken=None if sound else _broken(microbatch, "gradients"))
        assert kept.entry.grad is not None, "the stage's input is a leaf of the graph"
        rows = kept.padding.take(kept.entry.grad).to(self._dtype)
        broken = None if _is_finite(rows) else _broken(microbatch, "gradients")
        return Backwarded(gradient=rows, broken=broken)

    def forget(self) -> None:
        """Drop every microbatch whose backward has not come."""
        self._kept.clear()
        self._precision.forget()

    def weights_change(self) -> None:
        """Drop what was made of the weights as they were."""
        self._precision.forget()

    def _entry(self, padded: torch.Tensor) -> torch.Tensor:
        """A leaf that shares nothing of a graph with what came in."""
        return padded.detach() if self._embedding else padded.detach().to(self._held_dtype)

    def _run(self, padding: Padding, entry: torch.Tensor, targets: Targets | None) -> torch.Tensor:
        """The padded hidden state, or the loss."""
        if not self._head:
            return self._stage.differentiable(entry, padding.positions)
        assert targets is not None, "the last stage has targets"
        ids = targets.ids.to(self._device)
        (rows,) = torch.nonzero(ids != IGNORED, as_tuple=True)
        places = padding.places(rows)
        logits = self._stage.differentiable(entry, padding.positions, places)
        return cross_entropy_sum(logits, ids[rows])

    def _end_gradient(self, kept: _Kept, gradient: torch.Tensor | None) -> torch.Tensor:
        if self._head:
            return torch.tensor(kept.weight, dtype=kept.dtype, device=self._device)
        assert gradient is not None, "a stage without the head is told its output's gradient"
        return kept.padding.pad(gradient.to(self._device, kept.dtype))

    def _forwarded(
        self, microbatch: Microbatch, padding: Padding, output: torch.Tensor
    ) -> Forwarded:
        if self._head:
            loss = float(output)
            broken = None if math.isfinite(loss) else _broken(microbatch.index, "loss")
            return Forwarded(loss_sum=loss, broken=broken)
        rows = padding.take(output).to(self._dtype)
        broken = None if _is_finite(rows) else _broken(microbatch.index, "activations")
        return Forwarded(hidden=rows, broken=broken)


def _watched(model: Any) -> Sequence[torch.nn.Parameter]:
    """Trained tensors that are cheap to look at: norms, biases, and adapters."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    return [p for name, p in trained if p.ndim < 2 or ".lora_" in name]


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _broken(microbatch: int, what: str) -> Broken:
    return Broken(microbatch=microbatch, what=what)
