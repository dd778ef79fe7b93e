"""int4 by groups of 32 values along the token row, with the row's outliers kept exact.

    k outliers: the row's values of largest magnitude, as in `rows`
    scale = largest magnitude of the rest of a group / 7, rounded down to bfloat16
    q = round(value / scale), 0 for an outlier       value ≈ q · scale, -7 ≤ q ≤ 7
    byte j = q[j] + 16 · q[j + half]                 half = ⌈dim / 2⌉: a row is two halves

Rounded down, 7 · scale is never beyond the value, nor beyond what the tensor's dtype holds. The
error of an element is at most half its group's scale, of an outlier none. Zeros stay zero; a row
that holds NaN or infinity has NaN scales and decodes to NaN throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Self

import torch
from torch.nn.functional import pad

from edgepipe.codec.rows import SMALLEST_SCALE
from edgepipe.core.payload import (
    GROUP_SCALE_BYTES,
    GROUP_VALUES,
    OUTLIER_BYTES,
    groups_per_row,
    outliers_per_row,
    position_bytes,
)

LEVELS = 7
_UPPER_HALF = -1 << 16
"""Of a float32's bits: a bfloat16, rounded down."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """Views into one payload, in its order."""

    dim: int
    outliers: torch.Tensor
    """float32 [rows, k]"""
    positions: torch.Tensor
    """int16 or int32 [rows, k]"""
    scales: torch.Tensor
    """bfloat16 [rows, groups]"""
    packed: torch.Tensor
    """int8 [rows, half]"""

    @classmethod
    def of(cls, encoded: torch.Tensor, shape: Sequence[int]) -> Self:
        """The parts of an encoded tensor of `shape`; uint8 [payload_bytes(INT4, shape, …)]."""
        dim = shape[-1]
        num_rows, k, place = math.prod(shape[:-1]), outliers_per_row(dim), position_bytes(dim)
        groups, half = groups_per_row(dim), (dim + 1) // 2
        sizes = (k * OUTLIER_BYTES, k * place, groups * GROUP_SCALE_BYTES, half)
        ends = accumulate((num_rows * size for size in sizes), initial=0)
        outliers, positions, scales, packed = (encoded[a:b] for a, b in pairwise(ends))
        return cls(
            dim=dim,
            outliers=outliers.view(torch.float32).view(num_rows, k),
            positions=positions.view(torch.int16 if place == 2 else torch.int32).view(num_rows, k),
            scales=scales.view(torch.bfloat16).view(num_rows, groups),
            packed=packed.view(torch.int8).view(num_rows, half),
        )

    def split(self, num_rows: int) -> Sequence[Self]:
        """The same in blocks of so many rows."""
        parts = (self.outliers, self.positions, self.scales, self.packed)
        blocks = zip(*(torch.split(part, num_rows) for part in parts), strict=True)
        return [type(self)(self.dim, *block) for block in blocks]

    def write(self, rows: torch.Tensor) -> None:
        """Encode float32 rows [rows, dim]; they stay as they are."""
        k = self.positions.shape[1]
        magnitudes, positions = rows.abs().topk(max(k, 1), dim=-1)  # NaN is the largest
        positions = positions[:, :k]
        outliers = rows.gather(1, positions)
        rest = self._in_whole_groups(rows).scatter_(1, positions, 0)
        scales = _scales(self._by_group(rest))
        self._by_group(rest).mul_(scales.reciprocal().unsqueeze(-1)).round_()
        if not math.isfinite(magnitudes[:, :1].amax()):
            broken = ~magnitudes[:, :1].isfinite()
            scales.masked_fill_(broken, math.nan)
            outliers.masked_fill_(broken, math.nan)
            rest.masked_fill_(broken, 0)
        self.outliers.copy_(outliers)
        self.positions.copy_(positions)
        self.scales.copy_(scales)
        low, high = self._halves(rest)
        self.packed.copy_(torch.add(low, high, alpha=16))

    def read(self) -> torch.Tensor:
        """The rows, float32 [rows, dim]. Positions within the row were checked before."""
        num_rows, groups = self.scales.shape
        packed = self.packed.to(torch.float32)
        rows = packed.new_empty(num_rows, groups * GROUP_VALUES)
        low, high = self._halves(rows)
        torch.mul(packed, 1 / 16, out=high).round_()
        torch.sub(packed, high, alpha=16, out=low)
        self._by_group(rows).mul_(self.scales.to(torch.float32).unsqueeze(-1))
        rows = rows[:, : self.dim].contiguous()
        if self.positions.shape[1]:
            rows.scatter_(1, self.positions.to(torch.int64), self.outliers)
        return rows

    def _in_whole_groups(self, rows: torch.Tensor) -> torch.Tensor:
        """A copy, with zeros up to the end of the last group."""
        return pad(rows, (0, self.scales.shape[1] * GROUP_VALUES - self.dim))

    def _by_group(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(*self.scales.shape, GROUP_VALUES)

    def _halves(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        half = self.packed.shape[1]
        return rows[:, :half], rows[:, half : 2 * half]


def _scales(groups: torch.Tensor) -> torch.Tensor:
    """float32 [rows, groups] that bfloat16 holds."""
    scales = groups.abs().amax(-1).div_(LEVELS).clamp_(min=SMALLEST_SCALE)
    scales.view(torch.int32).bitwise_and_(_UPPER_HALF)
    return scales
