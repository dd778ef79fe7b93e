"""Cross entropy that holds a microbatch's logits twice at most: themselves, and their gradient.

Torch's own also holds log-probabilities of their size, and more where they have to be converted.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

_CHUNK_VALUES = 1 << 22
"""Logits that are converted to float32 at a time."""


class _CrossEntropySum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
        for rows in _chunks(logits):  # logsumexp is more exact, but not what everybody else has
            losses[rows] = cross_entropy(logits[rows].float(), targets[rows], reduction="none")
        chosen = logits.gather(1, targets[:, None])[:, 0].float()
        ctx.save_for_backward(logits, targets, chosen + losses)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits, targets, normalizers = ctx.saved_tensors
        (scale,) = gradients
        result = torch.empty_like(logits)
        for rows in _chunks(logits):
            probabilities = (logits[rows].float() - normalizers[rows, None]).exp_()
            ones = torch.ones_like(probabilities[:, :1])
            probabilities.scatter_add_(1, targets[rows, None], -ones)
            result[rows] = probabilities.mul_(scale)
        return result, None


def _chunks(logits: torch.Tensor) -> list[slice]:
    count, vocab = logits.shape
    size = max(1, _CHUNK_VALUES // vocab)
    return [slice(first, first + size) for first in range(0, count, size)]


def cross_entropy_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum of rows' cross entropy in nats, a float32 scalar.

    Args:
        logits: [rows, vocab], in any float dtype.
        targets: int64 [rows], every one a token.
    """
    total: torch.Tensor = _CrossEntropySum.apply(logits, targets)  # type: ignore[no-untyped-call]
    return total
