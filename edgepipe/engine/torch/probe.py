"""A config becomes the ModelShape that the planner cuts: nothing is downloaded or allocated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from edgepipe.core.frame import DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.engine.torch.anatomy import Anatomy, Cut, KVShape, examine, layer_weights, own_weights
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.linear import plain_linears

Weights = dict[str, torch.Tensor]

_EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What configs call the number of a layer's routed experts."""

_UNBOUNDED_POSITIONS = 2048
"""The context of models with ALiBi, whose config names none: what BLOOM was trained with."""


def model_shape(name: str, config: Mapping[str, Any]) -> ModelShape:
    """Sizes and tensor names of a model, from `config.to_dict()` alone.

    Tensors are named as in a checkpoint that transformers would save. Raises ModelError where
    the architecture is unknown or cannot be cut into stages.
    """
    parsed = read_config(config)
    dtype = _dtype(parsed)
    model = build_on_meta(parsed, dtype)
    anatomy = examine(model)
    embedding = checkpoint_weights(model, outside_weights(model, anatomy, anatomy.before))
    head = checkpoint_weights(model, outside_weights(model, anatomy, anatomy.after))
    in_model = [layer_weights(model, anatomy, index) for index in range(anatomy.num_layers)]
    layers = [checkpoint_weights(model, weights) for weights in in_model]
    text = parsed.get_text_config()
    used = [_used_parameters(weights, text) for weights in in_model]
    return ModelShape(
        name=name,
        architecture=type(model).__name__,
        num_layers=anatomy.num_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        max_positions=_max_positions(text),
        tied=not embedding.keys().isdisjoint(head),
        dtype=dtype,
        embedding=_item("embedding", embedding, num_used=0),
        layers=tuple(
            _item(f"layer {index}", weights, kv=kv, num_used=num_used)
            for index, (weights, kv, num_used) in enumerate(
                zip(layers, anatomy.kv, used, strict=True)
            )
        ),
        head=_item("head", head),
        parameters={
            tensor_name: tensor.numel()
            for weights in (embedding, *layers, head)
            for tensor_name, tensor in weights.items()
        },
        matrices=_matrices(model, anatomy),
    )


def _matrices(model: Any, anatomy: Anatomy) -> tuple[str, ...]:
    """The weights of plain linear modules, by the names of a checkpoint that has them so.

    Experts that a model merges into one tensor are none, nor are routers.
    """
    whole = Cut(first=0, end=anatomy.num_layers, embedding=True, head=True)
    weights = dict(outside_weights(model, anatomy, anatomy.after))
    for index in range(anatomy.num_layers):
        weights.update(layer_weights(model, anatomy, index))
    stored = checkpoint_weights(model, weights)
    packed = {anatomy.tied.get(name, name) for name in plain_linears(model, anatomy, whole)}
    return tuple(name for name in weights if name in packed and name in stored)


def outside_weights(model: Any, anatomy: Anatomy, modules: tuple[str, ...]) -> Weights:
    """The weights of modules outside the stack; a tied one under the name that it shares."""
    return {
        anatomy.tied.get(name, name): tensor
        for module in modules
        for name, tensor in own_weights(model, module).items()
    }


def checkpoint_weights(model: Any, weights: Weights) -> Weights:
    """Module weights on meta as a checkpoint names and splits them (experts one by one)."""
    if not get_model_conversion_mapping(model, add_legacy=False):
        return weights
    return dict(revert_weight_conversion(model, weights))


def _item(
    name: str, weights: Weights, *, kv: KVShape | None = None, num_used: int | None = None
) -> Item:
    """An item of which a token uses so many parameters, or all."""
    num_parameters = sum(tensor.numel() for tensor in weights.values())
    return Item(
        name=name,
        tensors=tuple(weights),
        num_parameters=num_parameters,
        flops_per_token=2 * (num_parameters if num_used is None else num_used),
        kv_values_per_token=kv.num_values if kv else 0,
    )


def _used_parameters(weights: Weights, text: Any) -> int:
    """Parameters of a layer that a token is multiplied by: of its experts, the chosen ones'."""
    counts = [getattr(text, field, None) for field in _EXPERT_FIELDS]
    num_experts = next((count for count in counts if isinstance(count, int) and count > 0), 1)
    chosen = getattr(text, "num_experts_per_tok", None) or num_experts
    experts = sum(
        tensor.numel()
        for name, tensor in weights.items()
        if ".experts." in name or (tensor.ndim == 3 and len(tensor) == num_experts)
    )
    others = sum(tensor.numel() for tensor in weights.values()) - experts
    return others + experts * min(chosen, num_experts) // num_experts


def _dtype(config: Any) -> DType:
    name = str(config.dtype).removeprefix("torch.")
    return DType(name) if name in {"float32", "bfloat16", "float16"} else DType.FLOAT32


def _max_positions(text: Any) -> int:
    for field in ("max_position_embeddings", "max_seq_len", "seq_length"):
        if isinstance(limit := getattr(text, field, None), int):
            return limit
    return _UNBOUNDED_POSITIONS
