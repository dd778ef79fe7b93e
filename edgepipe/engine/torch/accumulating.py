"""Linear layers that add a weight's gradient where the microbatches before left theirs.

    torch's own    outputᵀ · input ─▶ a matrix as large as the weight ─▶ added to weight.grad
    here           outputᵀ · input ───────────────────────────────────▶ added to weight.grad

The product adds as it is made (GEMM's β = 1), as Megatron-LM does it: a pass over memory less, and
no matrix that comes and goes with every microbatch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn


def accumulate_in_place(model: nn.Module) -> None:
    """Have every linear layer of `model` whose weight is here and trained accumulate so."""
    for module in model.modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if type(module) is nn.Linear and weight is not None and weight.requires_grad:
            module.forward = partial(_forward, module, module.forward)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, plain: Any, inputs: torch.Tensor) -> torch.Tensor:
    """As `plain` where torch would cast the weight, or where no gradient is wanted."""
    casts = torch.is_autocast_enabled(inputs.device.type) or inputs.dtype != layer.weight.dtype
    if casts or not torch.is_grad_enabled():
        output: torch.Tensor = plain(inputs)
        return output
    product: torch.Tensor = _Product.apply(inputs, layer.weight)  # type: ignore[no-untyped-call]
    bias: torch.Tensor | None = layer.bias
    return product if bias is None else product + bias


class _Product(torch.autograd.Function):
    """inputs [..., in] · weightᵀ [in, out]; the weight's gradient goes past the graph."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        ctx.weight = weight  # itself: what was saved comes back as another tensor from a checkpoint
        return nn.functional.linear(inputs, weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        (inputs,) = ctx.saved_tensors
        weight = ctx.weight
        left, right = gradient.reshape(-1, len(weight)).T, inputs.reshape(-1, weight.shape[1])
        if weight.grad is None:
            weight.grad = left @ right
        else:
            weight.grad.addmm_(left, right)
        return gradient @ weight if ctx.needs_input_grad[0] else None, None
