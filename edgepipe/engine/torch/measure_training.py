"""Seconds of a training microbatch through a sample: forward, backward, and the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgepipe.core.frame import DType
from edgepipe.engine.torch.anatomy import Cut
from edgepipe.engine.torch.architecture import read_config, torch_dtype
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

    def __init__(
        self,
        config: Mapping[str, Any],
        dtype: DType,
        cut: Cut,
        device: torch.device,
        clock: Callable[[Callable[[], object]], float],
    ) -> None:
        model, anatomy = random_stage(config, dtype, cut, device)
        self._stage = StageModel(model, anatomy, cut)
        self._parameters = [p for p in model.parameters() if p.is_floating_point()]
        for parameter in self._parameters:
            parameter.requires_grad_()
        text = read_config(config).get_text_config()
        self._sizes: tuple[int, int] = (text.hidden_size, text.vocab_size)
        self._dtype = torch_dtype(dtype)
        self._device = device
        self._cut = cut
        self._clock = clock

    def points(self, sequence_length: int, sequences: Sequence[int]) -> TrainPoints:
        """Measure microbatches of so many sequences of that length."""
        found = [self._microbatch(count, sequence_length) for count in sequences]
        return TrainPoints(
            forward=tuple(forward_s for forward_s, _ in found),
            backward=tuple(backward_s for _, backward_s in found),
            update_s=self._update_s(),
        )

    def _microbatch(self, sequences: int, length: int) -> tuple[float, float]:
        inputs = self._inputs(sequences, length)
        positions = torch.arange(length, device=self._device).expand(sequences, length)
        losses: list[torch.Tensor] = []

        def forward() -> None:
            losses[:] = [self._loss(self._stage.differentiable(inputs, positions))]

        def backward_s() -> float:
            forward()
            return self._clock(losses.pop().backward)

        return median_s(lambda: self._clock(forward)), median_s(backward_s)

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
        return torch.nn.functional.cross_entropy(flat, labels)

    def _update_s(self) -> float:
        """Of the parameters that a backward pass gave gradients."""
        trained = [p for p in self._parameters if p.grad is not None]
        if not trained:
            return 0.0
        optimizer = torch.optim.AdamW(trained, lr=1e-6, fused=True)
        return median_s(lambda: self._clock(optimizer.step))
