"""Keys and values of a stage's own layers, preallocated by slot.

    keys[layer]    [slot, kv_head, position, key_dim]
    values[layer]  [slot, kv_head, position, value_dim]

A run of slots is a view. Memory is taken up as positions are written, not when it is reserved.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from edgepipe.core.frame import Span
from edgepipe.engine.torch.anatomy import KVShape
from edgepipe.engine.torch.batch import Batch


class SlotCache(Cache):  # type: ignore[misc]
    """A transformers cache over the slots. `begin` says which spans the next forward extends."""

    def __init__(
        self,
        layers: Mapping[int, KVShape],
        *,
        num_slots: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(layer_class_to_replicate=DynamicLayer)
        self._keys = {}
        self._values = {}
        for index, kv in layers.items():
            shape = (num_slots, kv.num_heads, capacity)
            self._keys[index] = _zeros((*shape, kv.key_dim), dtype, device)
            self._values[index] = _zeros((*shape, kv.value_dim), dtype, device)
        self._device = device
        self._capacity = capacity
        self._lengths = [0] * num_slots
        self._start = 0
        self._end = 0
        self._offsets: torch.Tensor | None = None
        self._slots: list[int] = []
        self._index = torch.empty(0, dtype=torch.int64, device=device)
        self._written: tuple[Any, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Bytes reserved; on a CPU a page counts as memory only once it is written."""
        return sum(t.nbytes for side in (self._keys, self._values) for t in side.values())

    def length(self, slot: int) -> int:
        """Positions cached in `slot`."""
        return self._lengths[slot]

    def begin(self, batch: Batch) -> torch.Tensor:
        """Truncate to each span's start and make ready to extend; returns the position ids."""
        for span in batch.spans:
            assert span.start <= self._lengths[span.slot], "a span must not leave a gap"
            assert span.end <= self._capacity, "a span must end within the capacity"
        self._slots = [span.slot for span in batch.spans]
        self._start = max(span.start for span in batch.spans)
        self._end = batch.end
        many = len(batch.spans) > 1
        return self._begin_rows(batch) if many else self._begin_row(batch.spans[0])

    def commit(self, batch: Batch) -> None:
        """The forward that `begin` announced is done."""
        for span in batch.spans:
            self._lengths[span.slot] = span.end

    def _begin_row(self, span: Span) -> torch.Tensor:
        self._offsets = None
        return torch.arange(span.start, span.end, device=self._device)[None]

    def _begin_rows(self, batch: Batch) -> torch.Tensor:
        assert len(set(self._slots)) == len(self._slots), "a slot takes one span per call"
        positions = batch.positions().to(self._device)
        self._offsets = positions - torch.arange(batch.num_tokens, device=self._device)
        self._index = torch.tensor(self._slots, device=self._device)
        self._written = (self._index[:, None], slice(None), positions)
        return positions

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write [rows, head, tokens, dim] of the announced spans; returns all they may see."""
        keys = self._extend(self._keys[layer_idx], key_states)
        return keys, self._extend(self._values[layer_idx], value_states)

    def _extend(self, cached: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        slots = self._slots
        if self._offsets is None:
            row = cached.narrow(0, slots[0], 1)
            row.narrow(2, self._start, states.shape[2]).copy_(states)
            return row.narrow(2, 0, self._end)
        # An index on both sides of a slice moves the indexed dimensions to the front.
        cached[self._written] = states.transpose(1, 2)
        visible = cached.narrow(2, 0, self._end)
        if slots[-1] - slots[0] == len(slots) - 1:
            return visible.narrow(0, slots[0], len(slots))
        return visible.index_select(0, self._index)

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        """Cached positions of the announced row, the same for every layer, foreign ones too."""
        return self._start

    def get_query_offset(self, layer_idx: int = 0) -> Any:  # noqa: ARG002
        """Where the queries stand: one offset, or position minus column for each of many rows."""
        return self._start if self._offsets is None else self._offsets

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
        """Length and offset of the keys that `update` returns."""
        return self._end, 0

    def export(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A slot's keys and values, each [layers, kv_head, position, dim], copied."""
        return self._stack(self._keys, slot), self._stack(self._values, slot)

    def _stack(self, side: Mapping[int, torch.Tensor], slot: int) -> torch.Tensor:
        length = self._lengths[slot]
        layers = [tensor[slot, :, :length] for tensor in side.values()]
        return torch.stack(layers) if layers else torch.empty((0, 0, length, 0))

    def replace(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Set a slot to what `export` gave."""
        length = keys.shape[2]
        assert length <= self._capacity, "the state must fit the capacity"
        for side, state in ((self._keys, keys), (self._values, values)):
            for layer, tensor in zip(side.values(), state, strict=True):
                layer[slot, :, :length] = tensor
        self._lengths[slot] = length


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros; on a CPU, pages that the system provides when they are first written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, math.prod(shape) * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
