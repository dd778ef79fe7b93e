"""The costs that a plan was made from, so that anyone can compute it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from edgepipe.core.candidates import Candidate
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemInput:
    """An item's costs as they were used.

    `shared_bytes` of its `weight_bytes` belong to tensors that an earlier item holds too: a stage
    with both items counts them once.
    """

    name: str
    weight_bytes: int
    shared_bytes: int
    kv_bytes_per_token: int
    flops_per_token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInput:
    """A device as the plan saw it; devices of one node and pool share memory."""

    node: str
    device: str
    kind: str
    pool: str
    memory_limit_bytes: int
    baseline_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that went into a plan; `items` are in the model's order."""

    dtype: DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    hidden_size: int
    vocab_size: int
    items: tuple[ItemInput, ...]
    devices: tuple[DeviceInput, ...]


def inputs(model: ModelShape, devices: Sequence[Candidate], workload: Workload) -> Inputs:
    """What a plan for these will be made from."""
    return Inputs(
        dtype=workload.dtype,
        num_slots=workload.num_slots,
        max_positions=workload.max_positions,
        prefill_chunk=workload.prefill_chunk,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        items=_item_inputs(model, workload.dtype),
        devices=tuple(_device_input(candidate) for candidate in devices),
    )


def _item_inputs(model: ModelShape, dtype: DType) -> tuple[ItemInput, ...]:
    items = model.items(0, model.num_layers, embedding=True, head=True)
    together = accumulate(
        items, lambda held, item: held | set(item.tensors), initial=frozenset[str]()
    )
    return tuple(
        _item_input(model, item, held, dtype) for item, held in zip(items, together, strict=False)
    )


def _item_input(model: ModelShape, item: Item, held: frozenset[str], dtype: DType) -> ItemInput:
    shared = sum(model.parameters[name] for name in held.intersection(item.tensors))
    return ItemInput(
        name=item.name,
        weight_bytes=model.weight_bytes((item,), dtype),
        shared_bytes=shared * dtype.itemsize,
        kv_bytes_per_token=item.kv_values_per_token * dtype.itemsize,
        flops_per_token=item.flops_per_token,
    )


def _device_input(candidate: Candidate) -> DeviceInput:
    device = candidate.device
    return DeviceInput(
        node=candidate.node,
        device=device.id,
        kind=device.kind,
        pool=device.pool,
        memory_limit_bytes=device.memory_limit_bytes,
        baseline_bytes=device.baseline_bytes,
    )
