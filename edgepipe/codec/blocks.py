"""What encodings by row have in common: views into one payload, written block by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import torch

BLOCK_ELEMENTS = 1 << 18
"""On a CPU, rows are encoded in blocks that stay in its cache."""


class Blocks(Protocol):
    """Encoded rows of `dim` values, k of each kept exact."""

    @property
    def positions(self) -> torch.Tensor:
        """Where in its row each exact value stands; int16 or int32 [rows, k]."""
        ...

    @classmethod
    def of(cls, encoded: torch.Tensor, shape: Sequence[int]) -> Self:
        """The parts of an encoded tensor of `shape`; uint8 [payload_bytes(…, shape, …)]."""
        ...

    def split(self, num_rows: int) -> Sequence[Self]:
        """The same in blocks of so many rows."""
        ...

    def write(self, rows: torch.Tensor) -> None:
        """Encode float32 rows [rows, dim] into the payload; they stay as they are."""
        ...

    def read(self) -> torch.Tensor:
        """The rows, float32 [rows, dim]. Positions within the row were checked before."""
        ...


def write(rows: torch.Tensor, to: Blocks) -> None:
    """Encode `rows`, of any float type [rows, dim]."""
    if rows.device.type != "cpu" or rows.numel() <= BLOCK_ELEMENTS:
        return to.write(rows.float())
    num_rows = max(1, BLOCK_ELEMENTS // rows.shape[1])
    for block, part in zip(torch.split(rows, num_rows), to.split(num_rows), strict=True):
        part.write(block.float())
    return None
