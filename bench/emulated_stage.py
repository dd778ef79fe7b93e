"""A stage for torch.distributed.pipelining that takes a given time and sends real bytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.rival_stage import RivalStage
from bench.training_task import EmulatedTraining
from edgepipe.engine.emulated import take


class _Emulate(torch.autograd.Function):
    """Takes its time both ways, and passes on what comes in."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, forward_s: float, backward_s: float
    ) -> torch.Tensor:
        del weight
        ctx.backward_s = backward_s
        take(forward_s)
        return inputs.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[torch.Tensor, None, None, None]:
        take(ctx.backward_s)
        return gradients[0].contiguous(), None, None, None


class EmulatedStage(nn.Module):
    """A stage of given times. It has a weight, or the first stage would have no backward."""

    def __init__(self, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self._seconds = (forward_s, backward_s)
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The inputs, `forward_s` later."""
        output: torch.Tensor = _Emulate.apply(inputs, self.weight, *self._seconds)  # type: ignore[no-untyped-call]
        return output


def emulated_stage(training: EmulatedTraining) -> RivalStage:
    """Any rank's: all are alike, and there is nothing to optimise."""
    batch = torch.zeros((training.num_microbatches, training.activation_values))
    return RivalStage(
        module=EmulatedStage(training.forward_ms / 1e3, training.backward_ms / 1e3),
        batch=batch,
        targets=batch,
        loss=lambda outputs, _: outputs.sum(),
        optimizer=None,
    )
