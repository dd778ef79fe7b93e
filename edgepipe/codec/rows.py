"""int8 with one float32 scale per token row.

    scale = max |row| / 127        q = round(row / scale)        row ≈ q · scale

The error of an element is at most half a scale. A row of zeros stays zero; a row that holds NaN
or infinity has a NaN scale and decodes to NaN throughout, so that nobody takes it for finite.
Rows are [rows, dim] in any float type, scales float32 [rows, 1], quantised int8 [rows, dim].
"""

from __future__ import annotations

import math

import numpy as np
import torch

LEVELS = 127
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # its reciprocal is finite
LARGEST_SCALE = float(np.nextafter(np.finfo(np.float32).max / np.float32(LEVELS), np.float32(0)))
BLOCK_ELEMENTS = 1 << 18
"""On a CPU, rows are encoded in blocks that stay in its cache: 5 GB/s and not 3."""


def quantise(rows: torch.Tensor, scales: torch.Tensor, quantised: torch.Tensor) -> None:
    """Write the scales and the quantised rows of `rows`."""
    blocks = (rows, scales, quantised)
    if rows.device.type != "cpu" or rows.numel() <= BLOCK_ELEMENTS:
        return _quantise_block(*blocks)
    step = max(1, BLOCK_ELEMENTS // rows.shape[1])
    for block in zip(*(torch.split(tensor, step) for tensor in blocks), strict=True):
        _quantise_block(*block)
    return None


def dequantise(scales: torch.Tensor, quantised: torch.Tensor) -> torch.Tensor:
    """The rows as float32 [rows, dim]."""
    return quantised.to(torch.float32).mul_(scales)


def _quantise_block(rows: torch.Tensor, scales: torch.Tensor, quantised: torch.Tensor) -> None:
    rows = rows.float()
    # Two reductions and no |row|: five times as fast on a CPU as a reduction of absolute values.
    largest = torch.maximum(rows.amax(-1, keepdim=True), rows.amin(-1, keepdim=True).neg_())
    scale = largest.div(LEVELS).clamp_(min=SMALLEST_SCALE, max=LARGEST_SCALE)
    quotient = rows * scale.reciprocal()
    if not math.isfinite(largest.amax()):  # amax hands NaN on
        broken = ~largest.isfinite()
        scale.masked_fill_(broken, math.nan)
        quotient.masked_fill_(broken, 0)
    scales.copy_(scale)
    quantised.copy_(quotient.round_())
