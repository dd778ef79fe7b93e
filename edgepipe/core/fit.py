"""Does a stage fit its device? Weights, KV cache and workspace against each memory pool.

memory = baseline + weights + KV cache + workspace

weights    parameters · itemsize, a tensor that two items share once per stage; or matrices as
           their format holds them, the embedding's table and all else as the dtype, none shared
KV cache   num_slots · max_positions · KV values per token · itemsize
workspace  rows · (4 · hidden + 3 · width) · itemsize    one layer's activations, the widest
         + rows · max_positions · 4                      attention scores of one head, float32
         + 2 · rows · hidden · 4                         codec: a frame in, a frame out, float32
         + num_slots · vocab · 4                         logits, float32, with the head only

rows = max(prefill_chunk, num_slots): the largest frame is a prefill chunk, or a token per slot.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.weight_format import WeightFormat

_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the memory is for: sequences at once, tokens of each, tokens of a prefill chunk.

    Matrices are held in `weight_format`, or as `dtype` where that is None.
    """

    dtype: DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    weight_format: WeightFormat | None = None

    @property
    def rows(self) -> int:
        """Rows of the largest frame."""
        return max(self.prefill_chunk, self.num_slots)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What a stage takes of its device, in bytes, beside the idle worker's baseline."""

    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Memory wanted on one device, baseline included; an `idle` device has no stage."""

    node: str
    device: str
    pool: str
    memory_bytes: int
    limit_bytes: int
    idle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Memory that a device, or several devices of one pool together, lack."""

    node: str
    devices: tuple[str, ...]
    needed_bytes: int
    limit_bytes: int

    @property
    def short_by_bytes(self) -> int:
        """How much is missing; positive."""
        return self.needed_bytes - self.limit_bytes


def stage_memory(model: ModelShape, items: Sequence[Item], workload: Workload) -> Memory:
    """What a stage of these items takes (the formula stands in the module's docstring)."""
    kv_values = sum(item.kv_values_per_token for item in items)
    tokens = workload.num_slots * workload.max_positions
    return Memory(
        weight_bytes=model.weight_bytes(items, workload.dtype, workload.weight_format),
        kv_bytes=tokens * kv_values * workload.dtype.itemsize,
        workspace_bytes=_stage_workspace_bytes(model, items, workload),
    )


def _stage_workspace_bytes(model: ModelShape, items: Sequence[Item], workload: Workload) -> int:
    layers = [item for item in items if item not in (model.embedding, model.head)]
    return int(
        workspace_bytes(
            model,
            workload,
            width=max((widest(model, layer) for layer in layers), default=0),
            scores=int(bool(layers)),
            head=int(model.head in items),
        )
    )


def workspace_bytes(
    model: ModelShape, workload: Workload, *, width: Any, scores: Any, head: Any
) -> Any:
    """The workspace of a stage, or of many: numbers, or arrays that broadcast.

    `width` is that of its widest layer; `scores` and `head` are 1 where it has layers, the head.
    """
    values = 4 * model.hidden_size + 3 * width
    wide = scores * workload.max_positions + 2 * model.hidden_size
    logits = head * workload.num_slots * model.vocab_size
    return (
        workload.rows * values * workload.dtype.itemsize
        + (workload.rows * wide + logits) * _FLOAT32_BYTES
    )


def widest(model: ModelShape, layer: Item) -> int:
    """Columns of the layer's widest product, from its largest tensor of hidden · width.

    All experts of a mixture may lie in one tensor, of which a token uses a few: no product is
    wider than the layer's own arithmetic (2 FLOPs per parameter used) allows.
    """
    largest = max((model.parameters[name] for name in layer.tensors), default=0)
    used = min(largest, layer.flops_per_token // 2) if layer.flops_per_token else largest
    return -(-used // model.hidden_size)


def shortages(claims: Iterable[Claim]) -> tuple[Shortage, ...]:
    """Where memory is short, device by device and then pool by pool.

    A device may use its own limit, the devices of one pool together the largest of theirs.
    """
    by_pool = _by_pool(claims)
    return tuple(
        shortage
        for pool in by_pool
        for shortage in (*_device_shortages(pool), *_pool_shortages(pool))
    )


def short_by_bytes(claims: Iterable[Claim]) -> int:
    """The fewest bytes in all whose absence would make every claim fit."""
    return sum(
        max(
            sum(shortage.short_by_bytes for shortage in _device_shortages(pool)),
            sum(shortage.short_by_bytes for shortage in _pool_shortages(pool)),
        )
        for pool in _by_pool(claims)
    )


def _by_pool(claims: Iterable[Claim]) -> list[list[Claim]]:
    pools: dict[tuple[str, str], list[Claim]] = {}
    for claim in claims:
        pools.setdefault((claim.node, claim.pool), []).append(claim)
    return list(pools.values())


def _device_shortages(pool: Sequence[Claim]) -> list[Shortage]:
    return [found for claim in pool if not claim.idle for found in _shortage([claim])]


def _pool_shortages(pool: Sequence[Claim]) -> list[Shortage]:
    return _shortage(pool) if len(pool) > 1 and not all(claim.idle for claim in pool) else []


def _shortage(claims: Sequence[Claim]) -> list[Shortage]:
    needed = sum(claim.memory_bytes for claim in claims)
    limit = max(claim.limit_bytes for claim in claims)
    if needed <= limit:
        return []
    devices = tuple(claim.device for claim in claims if not claim.idle)
    return [Shortage(node=claims[0].node, devices=devices, needed_bytes=needed, limit_bytes=limit)]
