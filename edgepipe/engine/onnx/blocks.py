"""Matrices in blocks of 32 values, as MatMulNBits takes them.

    quants   uint8 [rows, blocks, bytes]   8 bits: value + 128; 4 bits: two values a byte, low first
    scales   float32 [rows, blocks]        value = scale · (quant - 128), or scale · (quant - 8)
    offsets  float32 [blocks, rows]        what a Q4_1 block adds to each of its values

GGUF's Q8_0, Q4_0 and Q4_1 blocks become these without a second rounding. MatMulNBits knows no
float offset, so a Q4_1 block's, m + 8 d, is multiplied by the sum of the activations' block. Other
matrices are rounded anew, block by block, to the nearest of the values that the largest one
of the block allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

BLOCK = 32
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """A matrix [rows, columns]; the last block of a row may be padded with zeros."""

    bits: int
    columns: int
    quants: torch.Tensor
    scales: torch.Tensor
    offsets: torch.Tensor | None = None

    @property
    def num_rows(self) -> int:
        """Rows of the matrix: what it makes of its input."""
        return self.quants.shape[0]


def joined(parts: list[Blocks]) -> Blocks:
    """The rows of several matrices of equal bits, one after another."""
    offsets = [part.offsets for part in parts if part.offsets is not None]
    assert len(offsets) in {0, len(parts)}, "blocks of one kind are joined"
    return Blocks(
        bits=parts[0].bits,
        columns=parts[0].columns,
        quants=torch.cat([part.quants for part in parts]),
        scales=torch.cat([part.scales for part in parts]),
        offsets=torch.cat(offsets, dim=1) if offsets else None,
    )


def rounded(matrix: torch.Tensor, bits: int) -> Blocks:
    """Round a float matrix [rows, columns] to 4 or 8 bits.

    The value of largest magnitude in a block becomes the lowest quant, as in GGUF's Q4_0.
    """
    rows, columns = matrix.shape
    num_blocks = -(-columns // BLOCK)
    padded = torch.nn.functional.pad(matrix.float(), (0, num_blocks * BLOCK - columns))
    values = padded.view(rows, num_blocks, BLOCK)
    middle = 1 << (bits - 1)
    places = values.abs().argmax(dim=2, keepdim=True)
    scales = values.gather(2, places) / -middle
    inverse = torch.where(scales == 0, 0.0, scales.reciprocal())
    quants = (values * inverse).round_().add_(middle).clamp_(0, 2 * middle - 1).to(torch.uint8)
    return Blocks(
        bits=bits,
        columns=columns,
        quants=quants if bits == 8 else quants[..., ::2] | quants[..., 1::2] << 4,
        scales=scales[..., 0].contiguous(),
    )


def from_gguf(kind: GGMLQuantizationType, raw: Bytes, columns: int) -> Blocks | None:
    """GGUF blocks [rows, bytes] as they are; None for a kind that MatMulNBits cannot hold."""
    rows = raw.reshape(raw.shape[0], columns // BLOCK, -1)
    match kind:
        case GGMLQuantizationType.Q8_0:
            return _blocks(8, columns, rows[..., 2:] ^ np.uint8(0x80), _half(rows, 0))
        case GGMLQuantizationType.Q4_0:
            return _blocks(4, columns, _in_pairs(rows[..., 2:]), _half(rows, 0))
        case GGMLQuantizationType.Q4_1:
            scales, minima = _half(rows, 0), _half(rows, 2)
            return _blocks(4, columns, _in_pairs(rows[..., 4:]), scales, minima + 8 * scales)
        case _:
            return None


def _blocks(
    bits: int,
    columns: int,
    quants: Bytes,
    scales: NDArray[np.float32],
    offsets: NDArray[np.float32] | None = None,
) -> Blocks:
    return Blocks(
        bits=bits,
        columns=columns,
        quants=torch.from_numpy(quants),
        scales=torch.from_numpy(scales),
        offsets=None if offsets is None else torch.from_numpy(np.ascontiguousarray(offsets.T)),
    )


def _half(rows: Bytes, at: int) -> NDArray[np.float32]:
    """The float16 at byte `at` of every block."""
    return np.ascontiguousarray(rows[..., at : at + 2]).view(np.float16)[..., 0].astype(np.float32)


def _in_pairs(nibbles: Bytes) -> Bytes:
    """GGUF's byte i holds values i and i + 16 of a block; MatMulNBits' values 2 i and 2 i + 1."""
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1)
    pairs: Bytes = values[..., ::2] | values[..., 1::2] << 4
    return pairs
