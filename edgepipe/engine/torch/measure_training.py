"""Seconds of a training microbatch through a sample: forward, backward, and the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.architecture import torch_dtype
from edgepipe.engine.torch.bench import Target
from edgepipe.engine.torch.cross_entropy import cross_entropy_sum
from edgepipe.engine.torch.median import median_s
from edgepipe.engine.torch.sample import random_stage
from edgepipe.engine.torch.stage_model import StageModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPoints:
    """Seconds of microbatches of 1, 2 … sequences, and of one step of AdamW."""

    forward: tuple[float, ...]
    backward: tuple[float, ...]
    update_s: float


class TrainBench:
    """A stage with random weights, all of them trainable."""

    def __init__(self, target: Target, cut: Cut) -> None:
        asked = target.asked
        model, anatomy = random_stage(target.config, asked.dtype, cut, target.device)
        self._stage = StageModel(model, anatomy, cut)
        self._parameters = [p for p in model.parameters() if p.is_floating_point()]
        for parameter in self._parameters:
            parameter.requires_grad_()
        self._sizes = (target.hidden_size, target.vocab_size)
        self._length = asked.sequence_length
        self._dtype = torch_dtype(asked.dtype)
        self._device = target.device
        self._cut = cut
        self._clock = target.clock
        self._on_call: Callable[[], None] = lambda: None

    def points(self, sequences: Sequence[int], on_call: Callable[[], None]) -> TrainPoints:
        """Measure microbatches of so many sequences; `on_call` as in `medians_s`."""
        self._on_call = on_call
        found = [self._microbatch(count) for count in sequences]
        return TrainPoints(
            forward=tuple(forward_s for forward_s, _ in found),
            backward=tuple(backward_s for _, backward_s in found),
            update_s=self._update_s(),
        )

    def _microbatch(self, sequences: int) -> tuple[float, float]:
        length = self._length
        inputs = self._inputs(sequences, length)
        positions = torch.arange(length, device=self._device).expand(sequences, length)
        losses: list[torch.Tensor] = []

        def forward() -> None:
            losses.append(self._loss(self._stage.differentiable(inputs, positions)))

        def forward_s() -> float:
            losses.clear()  # or the activations of two microbatches are held
            return self._clock(forward)

        def backward_s() -> float:
            forward_s()
            return self._clock(losses.pop().backward)

        if self._device.type != "cpu":
            backward_s()  # loads or compiles its kernels, as in `Bench.times`
        return median_s(forward_s, self._on_call), median_s(backward_s, self._on_call)

    def _inputs(self, sequences: int, length: int) -> torch.Tensor:
        hidden_size, vocab_size = self._sizes
        if self._cut.embedding:
            return torch.randint(vocab_size, (sequences, length), device=self._device)
        rows = torch.randn((sequences, length, hidden_size), device=self._device)
        return rows.to(self._dtype).requires_grad_()

    def _loss(self, output: torch.Tensor) -> torch.Tensor:
        """Cross entropy with a head; else something whose gradient costs next to nothing."""
        if not self._cut.head:
            return output.sum()
        flat = output.flatten(0, 1)
        labels = torch.zeros(len(flat), dtype=torch.int64, device=self._device)
        return cross_entropy_sum(flat, labels)

    def _update_s(self) -> float:
        """Of the parameters that a backward pass gave gradients."""
        trained = [p for p in self._parameters if p.grad is not None]
        if not trained:
            return 0.0
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        return median_s(lambda: self._clock(optimizer.step), self._on_call)
