"""Keys and values of a stage's own layers, by slot, in memory that sessions read and write.

    keys[layer]    [slot, kv_head, position, key_dim]
    values[layer]  [slot, kv_head, position, value_dim]

An idle row of a call writes what it computes to the position behind its last; one more position
than the stage was promised is there for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from edgepipe.core.frame import Span
from edgepipe.engine.onnx.store import KVSize


class Slots:
    """The caches, and how much of each slot's is filled."""

    def __init__(
        self,
        layers: Sequence[KVSize],
        *,
        num_slots: int,
        max_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity = max_positions + 1
        self.last_positions = np.zeros(num_slots, dtype=np.int32)
        self.lengths = [0] * num_slots
        self._max_positions = max_positions
        shapes = [(num_slots, layer.heads, self.capacity) for layer in layers]
        self.keys, self.values = (
            [_zeros((*shape, dim), dtype, device) for shape, dim in zip(shapes, dims, strict=True)]
            for dims in ([layer.key_dim for layer in layers], [layer.value_dim for layer in layers])
        )

    @property
    def num_bytes(self) -> int:
        """Bytes reserved; on a CPU a page counts as memory only once it is written."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def extend(self, span: Span) -> None:
        """Truncate a slot to the span's start and make ready to extend it."""
        assert span.start <= self.lengths[span.slot], "a span must not leave a gap"
        assert span.end <= self._max_positions, "a span must end within the capacity"
        self.lengths[span.slot] = span.end
        self.last_positions[span.slot] = span.end - 1

    def idle(self, slot: int) -> None:
        """Make ready to compute a row along that extends nothing."""
        self.last_positions[slot] = self.lengths[slot]

    def export(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A slot's keys and values, each [layers, kv_head, position, dim], copied."""
        return self._stack(self.keys, slot), self._stack(self.values, slot)

    def _stack(self, side: list[torch.Tensor], slot: int) -> torch.Tensor:
        length = self.lengths[slot]
        layers = [tensor[slot, :, :length] for tensor in side]
        return torch.stack(layers) if layers else torch.empty((0, 0, length, 0))

    def replace(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Set a slot to what `export` gave."""
        length = keys.shape[2]
        assert length <= self._max_positions, "the state must fit the capacity"
        for side, state in ((self.keys, keys), (self.values, values)):
            for layer, tensor in zip(side, state, strict=True):
                layer[slot, :, :length] = tensor
        self.lengths[slot] = length


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU, pages that the system provides when they are first written."""
    if device.type == "cpu" and dtype is torch.float32:
        zeros: Any = np.zeros(shape, dtype=np.float32)
        return torch.from_numpy(zeros)
    return torch.zeros(shape, dtype=dtype, device=device)
