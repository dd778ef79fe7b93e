"""int8 by token row, with the row's outliers kept exact.

    k outliers: the values of largest magnitude      scale = largest magnitude of the rest / 127
    q = round(row / scale), 0 for an outlier         row ≈ q · scale, and each outlier in its place

A residual stream has a few huge values in every row. Were they quantised too they would set the
scale, and the rest of the row would be rounded away (docs/LOG.md). The error of an element is at
most half a scale, of an outlier none. A row of zeros stays zero; a row that holds NaN or infinity
has a NaN scale and decodes to NaN throughout, so that nobody takes it for finite.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

import numpy as np
import torch

from edgepipe.core.payload import OUTLIER_BYTES, SCALE_BYTES, outliers_per_row, position_bytes

LEVELS = 127
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # its reciprocal is finite
LARGEST_SCALE = float(np.nextafter(np.finfo(np.float32).max / np.float32(LEVELS), np.float32(0)))


@dataclass(frozen=True, slots=True)
class Quantised:
    """Views into one payload, in its order."""

    scales: torch.Tensor
    """float32 [rows, 1]"""
    outliers: torch.Tensor
    """float32 [rows, k]"""
    positions: torch.Tensor
    """int16 or int32 [rows, k]"""
    quantised: torch.Tensor
    """int8 [rows, dim]"""

    @classmethod
    def of(cls, encoded: torch.Tensor, shape: Sequence[int]) -> Self:
        """The parts of an encoded tensor of `shape`; uint8 [payload_bytes(INT8, shape, …)]."""
        dim = shape[-1]
        num_rows, k, place = math.prod(shape[:-1]), outliers_per_row(dim), position_bytes(dim)
        sizes = (SCALE_BYTES, k * OUTLIER_BYTES, k * place, dim)
        ends = accumulate((num_rows * size for size in sizes), initial=0)
        scales, outliers, positions, quantised = (encoded[a:b] for a, b in pairwise(ends))
        return cls(
            scales=scales.view(torch.float32).view(num_rows, 1),
            outliers=outliers.view(torch.float32).view(num_rows, k),
            positions=positions.view(torch.int16 if place == 2 else torch.int32).view(num_rows, k),
            quantised=quantised.view(torch.int8).view(num_rows, dim),
        )

    def split(self, num_rows: int) -> Sequence[Self]:
        """The same in blocks of so many rows."""
        parts = (self.scales, self.outliers, self.positions, self.quantised)
        blocks = zip(*(torch.split(part, num_rows) for part in parts), strict=True)
        return [type(self)(*block) for block in blocks]

    def write(self, rows: torch.Tensor) -> None:
        """Encode float32 rows [rows, dim]; they stay as they are."""
        k = self.positions.shape[1]
        magnitudes, positions = rows.abs().topk(k + 1, dim=-1)  # NaN is the largest
        largest, positions = magnitudes[:, k:], positions[:, :k]
        scale = largest.div(LEVELS).clamp_(min=SMALLEST_SCALE, max=LARGEST_SCALE)
        quotient = rows * scale.reciprocal()
        outliers = rows.gather(1, positions)
        quotient.scatter_(1, positions, 0)
        if not math.isfinite(magnitudes[:, :1].amax()):
            broken = ~magnitudes[:, :1].isfinite()
            scale.masked_fill_(broken, math.nan)
            outliers.masked_fill_(broken, math.nan)
            quotient.masked_fill_(broken, 0)
        self.scales.copy_(scale)
        self.outliers.copy_(outliers)
        self.positions.copy_(positions)
        self.quantised.copy_(quotient.round_())

    def read(self) -> torch.Tensor:
        """The rows, float32 [rows, dim]. Positions within the row were checked before."""
        rows = self.quantised.to(torch.float32).mul_(self.scales)
        if self.positions.shape[1]:
            rows.scatter_(1, self.positions.to(torch.int64), self.outliers)
        return rows
