"""A model as the planner sees it: items with weights, activations and a KV cache.

embedding | layer 0 | layer 1 | … | layer n-1 | head
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgepipe.core.frame import DType
from edgepipe.core.weight_format import WeightFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """The smallest thing that can be placed on a device.

    `num_parameters` counts each tensor once; `tensors` are the checkpoint's names. A tied head
    lists the embedding's tensor too: a stage that holds both keeps one copy of it.
    """

    name: str
    tensors: tuple[str, ...]
    num_parameters: int
    flops_per_token: int = 0
    kv_values_per_token: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder-only causal LM, read from its config on the meta device.

    `parameters` maps a tensor's name to its number of elements, so that a stage which holds two
    items counts a shared tensor once. `matrices` names those that may be held in a weight format.
    `max_positions` is the context length in tokens.
    """

    name: str
    architecture: str
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_positions: int
    tied: bool
    dtype: DType
    embedding: Item
    layers: tuple[Item, ...]
    head: Item
    parameters: dict[str, int]
    matrices: tuple[str, ...] = ()

    def items(self, first: int, end: int, *, embedding: bool, head: bool) -> tuple[Item, ...]:
        """The items of a stage that holds layers [first, end)."""
        return (
            *((self.embedding,) if embedding else ()),
            *self.layers[first:end],
            *((self.head,) if head else ()),
        )

    def tensors(self, items: Iterable[Item]) -> tuple[str, ...]:
        """The tensors of some items, each named once, in order."""
        return tuple(dict.fromkeys(name for item in items for name in item.tensors))

    def weight_bytes(
        self, items: Iterable[Item], dtype: DType, weight_format: WeightFormat | None = None
    ) -> int:
        """Bytes of the items' weights when held as `dtype`, shared tensors once.

        With a `weight_format` the matrices of layers and head are held in it, and nothing is
        shared: an embedding's table, of which rows are read, is never quantized.
        """
        if weight_format is None:
            return sum(self.parameters[name] for name in self.tensors(items)) * dtype.itemsize
        return sum(self._own_bytes(item, dtype, weight_format) for item in items)

    def _own_bytes(self, item: Item, dtype: DType, weight_format: WeightFormat) -> int:
        matrices = set(self.matrices) if item != self.embedding else set[str]()
        held = weight_format.of_head if item == self.head else weight_format
        return sum(
            held.bytes_of(self.parameters[name])
            if name in matrices
            else self.parameters[name] * dtype.itemsize
            for name in item.tensors
        )
