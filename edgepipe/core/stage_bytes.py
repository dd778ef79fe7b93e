"""What every stage that there may be takes, at once: tables over [first, end) of layers [L, L].

The sums of edgepipe.core.fit for one stage, from running sums over the items.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from edgepipe.core.fit import Workload, widest, workspace_bytes
from edgepipe.core.model import ModelShape
from edgepipe.core.problem import Ints, item_range


def stage_bytes_of(model: ModelShape, workload: Workload) -> Ints:
    """What a stage of layers [first, end) takes beside the baseline; 0 where empty."""
    items = model.items(0, model.num_layers, embedding=True, head=True)
    tokens = workload.num_slots * workload.max_positions
    kv = sums_over(model.num_layers, [item.kv_values_per_token for item in items])
    cached = tokens * kv * workload.dtype.itemsize
    return np.triu(_weights(model, workload) + cached + _workspace(model, workload), k=1)


def _weights(model: ModelShape, workload: Workload) -> Ints:
    """The bytes of every stage's weights, as `ModelShape.weight_bytes` counts them."""
    if workload.weight_format is None:
        return parameters_of(model) * workload.dtype.itemsize
    items = model.items(0, model.num_layers, embedding=True, head=True)
    own = [model.weight_bytes((item,), workload.dtype, workload.weight_format) for item in items]
    return sums_over(model.num_layers, own)


def parameters_of(model: ModelShape) -> Ints:
    """Parameters of a stage, a tensor that several of its items hold once."""
    items = model.items(0, model.num_layers, embedding=True, head=True)
    holders = defaultdict[str, list[int]](list)
    for at, item in enumerate(items):
        for name in item.tensors:
            holders[name].append(at)
    own = [0] * len(items)
    for name, held in holders.items():
        own[held[0]] += model.parameters[name]
    table = sums_over(model.num_layers, own)
    for name, held in holders.items():
        if len(held) > 1:
            table += model.parameters[name] * _only_later(model.num_layers, held)
    return table


def _only_later(num_layers: int, held: Sequence[int]) -> Ints:
    """1 where a stage holds one of these items, but not the first of them."""
    marks = [np.zeros(num_layers + 2, dtype=np.int64) for _ in range(2)]
    marks[0][held[0]] = 1
    marks[1][list(held)] = 1
    first, any_of = (sums_over(num_layers, mark.tolist()) for mark in marks)
    later: Ints = ((any_of > 0) & (first == 0)).astype(np.int64)
    return later


def sums_over(num_layers: int, values: Sequence[int]) -> Ints:
    """Sums of the items' values over a stage's items; 0 where it is empty."""
    sums = np.cumsum([0, *values])
    ranges = [item_range(num_layers, place, place) for place in range(num_layers + 1)]
    begins, ends = (np.array(side) for side in zip(*ranges, strict=True))
    return np.triu(sums[ends] - sums[begins][:, None], k=1)


def largest_over(num_layers: int, values: Sequence[int]) -> Ints:
    """The largest of the layers' values over a stage's layers; 0 where it is empty."""
    table = np.zeros((num_layers + 1, num_layers + 1), dtype=np.int64)
    for first in range(num_layers):
        table[first, first + 1 :] = np.maximum.accumulate(values[first:])
    return table


def _workspace(model: ModelShape, workload: Workload) -> Ints:
    """The workspace of every stage, with the logits where the head is."""
    width = largest_over(model.num_layers, [widest(model, layer) for layer in model.layers])
    head = np.zeros_like(width)
    head[:, -1] = 1
    table: Ints = workspace_bytes(model, workload, width=width, scores=1, head=head)
    return table
