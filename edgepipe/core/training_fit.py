"""What training takes of a stage's memory, beside the idle worker's baseline.

held         weights: parameters · itemsize
             full: gradients and AdamW's two moments 12 bytes a parameter, and 4 more for a
             float32 master copy where the dtype is smaller; but a tied embedding's gradient and
             moments are the head's alone
             lora: 16 bytes an adapter parameter; a matrix of hidden · width has
             rank · (hidden + width) of them
             one layer's activations, computed again or in use, and the head's logits twice;
             where they are computed again, their gradients too
             20 MiB of libraries, which an idle worker has not loaded
in flight    of each microbatch, per layer: its input where it is computed again, else its
             activations; embedding and head keep their input

activations  rows · (8 · hidden + 4 · width) · itemsize     norms, projections, products of the MLP;
             attention keeps no scores (Dao et al. 2022; after Korthikanti et al. 2022)
gradients    rows · (2 · hidden + 3 · width) · itemsize     of what the MLP multiplies
holes        where rows · hidden · itemsize is below 1 MiB, tensors lie in the heap, and glibc
             before 2.38 hardly uses again the holes that they leave: what is worked on counts
             twice, what is in flight 1.2 times (docs/LOG.md)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.fit import widest
from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.problem import Ints
from edgepipe.core.stage_bytes import largest_over, parameters_of, sums_over
from edgepipe.core.work import Batch, TrainMode

LIBRARY_BYTES = 20 << 20
"""Of peft and of what torch sets up for its first backward; measured, docs/LOG.md."""
MAPPED_BYTES = 1 << 20
"""Larger tensors are mapped, each for itself, and leave no hole."""
_WORKED_ON = 2.0
_IN_FLIGHT = 1.2
"""In the heap, with the holes around it; measured with its caches off, as workers have it."""
_FLOAT32_BYTES = 4
_ADAPTER_BYTES = 16
_OPTIMIZER_BYTES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """How a model is trained: microbatches of `rows` tokens, computed again or not."""

    model: ModelShape
    dtype: DType
    batch: Batch
    rows: int
    recompute: bool

    def inflight_bytes(self, item: Item) -> int:
        """What a microbatch in flight leaves with an item."""
        if self.recompute or item in (self.model.embedding, self.model.head):
            return self._bytes(self.model.hidden_size, _IN_FLIGHT)
        return self._bytes(self._activations(item), _IN_FLIGHT)

    def adapter_parameters(self, item: Item) -> int:
        """Parameters of the adapters beside an item's matrices."""
        if item in (self.model.embedding, self.model.head):
            return 0
        hidden = self.model.hidden_size
        sizes = [self.model.parameters[name] for name in item.tensors]
        return sum(self.batch.rank * (hidden + size // hidden) for size in sizes if size > hidden)

    def working_bytes(self, layer: Item) -> int:
        """What a layer takes while it is worked on, and no longer."""
        gradients = 2 * self.model.hidden_size + 3 * widest(self.model, layer)
        values = self._activations(layer) + (gradients if self.recompute else 0)
        return self._bytes(values, _WORKED_ON)

    def _activations(self, layer: Item) -> int:
        """Values that a token's backward needs of a layer."""
        return 8 * self.model.hidden_size + 4 * widest(self.model, layer)

    def _bytes(self, values: int, with_holes: float) -> int:
        """So many values of every token, as they lie in memory."""
        size = self.rows * self.dtype.itemsize
        in_heap = size * self.model.hidden_size < MAPPED_BYTES
        return round(size * values * (with_holes if in_heap else 1))


def held_bytes(footprint: Footprint) -> Ints:
    """What a stage of layers [first, end) holds all the time [L, L]; 0 where empty."""
    model, dtype = footprint.model, footprint.dtype
    parameters = parameters_of(model)
    working = [footprint.working_bytes(layer) for layer in model.layers]
    logits = np.zeros_like(parameters)
    logits[:, -1] = 2 * footprint.rows * model.vocab_size * _FLOAT32_BYTES
    held = parameters * dtype.itemsize + _trained_bytes(footprint, parameters) + logits
    return np.triu(held + largest_over(model.num_layers, working) + LIBRARY_BYTES, k=1)


def _trained_bytes(footprint: Footprint, parameters: Ints) -> Ints:
    model = footprint.model
    if footprint.batch.mode is TrainMode.LORA:
        items = model.items(0, model.num_layers, embedding=True, head=True)
        adapters = [footprint.adapter_parameters(item) for item in items]
        return _ADAPTER_BYTES * sums_over(model.num_layers, adapters)
    master = _FLOAT32_BYTES if footprint.dtype.itemsize < _FLOAT32_BYTES else 0
    trained = parameters * (_OPTIMIZER_BYTES + master)
    trained[0, :-1] -= _OPTIMIZER_BYTES * _shared_parameters(model)
    return trained


def _shared_parameters(model: ModelShape) -> int:
    """Of a tied embedding, which the stage with the head trains."""
    shared = set(model.embedding.tensors).intersection(model.head.tensors)
    return sum(model.parameters[name] for name in shared)


def inflight_bytes(footprint: Footprint) -> Ints:
    """What a microbatch leaves with a stage of layers [first, end) [L, L]; 0 where empty."""
    model = footprint.model
    items = model.items(0, model.num_layers, embedding=True, head=True)
    return sums_over(model.num_layers, [footprint.inflight_bytes(item) for item in items])
