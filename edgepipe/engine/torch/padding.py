"""Sequences of unequal length, packed and padded.

    lengths (3, 2)   packed  a0 a1 a2 b0 b1      padded  a0 a1 a2
                                                         b0 b1 ··

The padding stands on the right, where no token of a causal model sees it, so nothing is masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Padding:
    """Pads rows [rows, …] to [sequences, longest, …], and takes them back.

    Where all sequences are of one length, both are views.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._shape = (len(lengths), max(lengths))
        self._device = device
        self._places = None if min(lengths) == max(lengths) else _places(lengths).to(device)

    @property
    def positions(self) -> torch.Tensor:
        """The position of every token, int64 [sequences, longest]."""
        return torch.arange(self._shape[1], device=self._device).expand(self._shape)

    def pad(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows become sequences; the padding is zeros."""
        sequences, longest = self._shape
        if self._places is None:
            return rows.reshape(sequences, longest, *rows.shape[1:])
        padded = rows.new_zeros((sequences * longest, *rows.shape[1:]))
        padded[self._places] = rows
        return padded.view(sequences, longest, *rows.shape[1:])

    def take(self, padded: torch.Tensor) -> torch.Tensor:
        """Sequences become rows; what stands in the padding is dropped."""
        flat = padded.flatten(0, 1)
        return flat if self._places is None else flat[self._places]

    def places(self, rows: torch.Tensor) -> torch.Tensor:
        """Where rows, int64 [n], stand among the sequences · longest tokens."""
        return rows if self._places is None else self._places[rows]


def _places(lengths: Sequence[int]) -> torch.Tensor:
    starts = range(0, len(lengths) * max(lengths), max(lengths))
    ranges = zip(starts, lengths, strict=True)
    return torch.cat([torch.arange(start, start + length) for start, length in ranges])
