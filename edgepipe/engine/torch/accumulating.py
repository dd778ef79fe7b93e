"""Linear layers that add a weight's gradient where the microbatches before left theirs.

    torch's own    outputᵀ · input ─▶ a matrix as large as the weight ─▶ added to weight.grad
    here           outputᵀ · input ───────────────────────────────────▶ added to weight.grad

The product adds as it is made (GEMM's β = 1), as Megatron-LM does it: a pass over memory less, and
no matrix that comes and goes with every microbatch. Nor with every step: a step's first gradients
lie where those of the step before lay, in pages that the system need not give and clear again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


class GradientMemory:
    """What weights' gradients lie in, step after step; `weight.grad` is None between two."""

    def __init__(self) -> None:
        self._held: dict[torch.Tensor, torch.Tensor] = {}

    def add(self, weight: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add a product to a weight's gradient."""
        if weight.grad is not None:
            weight.grad.addmm_(left, right)
        elif (held := self._held.get(weight)) is not None:
            weight.grad = torch.mm(left, right, out=held)
        else:
            weight.grad = self._held[weight] = left @ right

    def give_away(self) -> None:
        """Whoever has the gradients now keeps them: the next ones lie elsewhere."""
        self._held.clear()


def accumulate_in_place(model: nn.Module) -> GradientMemory:
    """Have every linear layer of `model` whose weight is here and trained accumulate so."""
    memory = GradientMemory()
    for module in model.modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if type(module) is nn.Linear and weight is not None and weight.requires_grad:
            forward = partial(_forward, module, module.forward, memory)
            module.forward = forward  # type: ignore[method-assign]
    return memory


def _forward(
    layer: nn.Linear, plain: Any, memory: GradientMemory, inputs: torch.Tensor
) -> torch.Tensor:
    """As `plain` where torch would cast the weight, or where no gradient is wanted."""
    casts = torch.is_autocast_enabled(inputs.device.type) or inputs.dtype != layer.weight.dtype
    if casts or not torch.is_grad_enabled():
        output: torch.Tensor = plain(inputs)
        return output
    product: torch.Tensor = _Product.apply(inputs, layer.weight, memory)  # type: ignore[no-untyped-call]
    bias: torch.Tensor | None = layer.bias
    return product if bias is None else product + bias


class _Product(torch.autograd.Function):
    """inputs [..., in] · weightᵀ [in, out]; the weight's gradient goes past the graph."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, memory: GradientMemory
    ) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        ctx.weight = weight  # itself: what was saved comes back as another tensor from a checkpoint
        ctx.memory = memory
        return nn.functional.linear(inputs, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        (inputs,) = ctx.saved_tensors
        weight = ctx.weight
        left, right = gradient.reshape(-1, len(weight)).T, inputs.reshape(-1, weight.shape[1])
        ctx.memory.add(weight, left, right)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None, None
