"""A PEFT adapter: read from its folder, checked against a model, cut into parts as weights are.

    adapter_config.json            rank, alpha and kind
    adapter_model.safetensors      base_model.model.<module>.lora_A.weight and .lora_B.weight

Format: https://huggingface.co/docs/peft/developer_guides/checkpoint
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgepipe.coordinator.models import read_json
from edgepipe.coordinator.parts import Part, build_parts
from edgepipe.coordinator.safetensors_source import read_header
from edgepipe.coordinator.source import SourceTensor
from edgepipe.core.lora import LORA_A, LORA_B, SCALE_OPTION, module_of
from edgepipe.core.model import ModelShape
from edgepipe.errors import ModelError

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
MAX_RANK = 1 << 12
MAX_ALPHA = 1e6
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BEYOND = {
    "use_dora": "uses DoRA",
    "use_qalora": "uses QALoRA",
    "use_bdlora": "uses BD-LoRA",
    "kasa_config": "uses KaSA",
    "velora_config": "uses VeLoRA",
    "lora_bias": "trains biases",
    "alora_invocation_tokens": "is an activated LoRA",
    "arrow_config": "uses Arrow routing",
    "rank_pattern": "has ranks that differ",
    "alpha_pattern": "has alphas that differ",
    "modules_to_save": "trains whole modules",
    "trainable_token_indices": "trains tokens",
    "target_parameters": "adapts bare parameters",
    "layer_replication": "repeats layers",
}
"""What a LoRA may have beyond W + scale · B A, and how a sentence says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter that fits a model; `tensors` are named as the model's class names modules."""

    folder: Path
    scale: float
    tensors: tuple[SourceTensor, ...]

    @property
    def options(self) -> dict[str, float]:
        """What every stage is told of it."""
        return {SCALE_OPTION: self.scale}

    def parts(self, home: Path) -> tuple[Part, ...]:
        """Its content-addressed parts, one per layer (call it in a thread)."""
        return build_parts(self.tensors, [tensor.name for tensor in self.tensors], home=home)

    def beside(self, weights: Iterable[str]) -> tuple[str, ...]:
        """Its tensors that change one of these weights."""
        changed = {weight.removesuffix(".weight") for weight in weights}
        return tuple(tensor.name for tensor in self.tensors if module_of(tensor.name) in changed)


def read_adapter(folder: Path, shape: ModelShape) -> Adapter:
    """The adapter in a folder, as PEFT and `edgepipe export` write it.

    Raises:
        ModelError: it is not there, not a plain LoRA, or not of this model.
        DamagedWeights: its file is cut off or inconsistent.
    """
    config = _config(folder)
    rank, scale = _rank_and_scale(folder, config)
    tensors = tuple(_renamed(folder, tensor) for tensor in _read(folder))
    by_module: dict[str, dict[str, SourceTensor]] = {}
    for tensor in tensors:
        module = tensor.name[: -len(LORA_A)]
        by_module.setdefault(module, {})[tensor.name.removeprefix(module)] = tensor
    for module, pair in by_module.items():
        _check_pair(folder, module, pair, rank, shape)
    return Adapter(folder=folder, scale=scale, tensors=tensors)


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / CONFIG_NAME)
    if not config and (folder / "checkpoints").is_dir():
        raise ModelError(f"{folder} is a training run: write its adapter with `edgepipe export`.")
    if not config:
        raise ModelError(f"{folder} holds no {CONFIG_NAME}: give the folder of a PEFT adapter.")
    if config.get("peft_type") != "LORA":
        kind = str(config.get("peft_type"))[:40]
        raise ModelError(f"{folder} is an adapter of the kind {kind}: only LORA can be used.")
    beyond = [how for key, how in _BEYOND.items() if config.get(key)]
    if config.get("bias", "none") != "none":
        beyond.append("trains biases")
    if beyond:
        raise ModelError(
            f"The adapter in {folder} {beyond[0]}, which edgepipe cannot apply: merge it into its "
            "model with PEFT, and run that."
        )
    return config


def _rank_and_scale(folder: Path, config: Mapping[str, Any]) -> tuple[int, float]:
    """The rank, and alpha / rank (rsLoRA, Kalajdzievski 2023: alpha / √rank)."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or not 1 <= rank <= MAX_RANK:
        raise ModelError(f"{folder / CONFIG_NAME} has no rank r from 1 to {MAX_RANK}: correct it.")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= MAX_ALPHA:
        raise ModelError(
            f"{folder / CONFIG_NAME} has no lora_alpha from 0 to {MAX_ALPHA:g}: correct it."
        )
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _read(folder: Path) -> tuple[SourceTensor, ...]:
    path = folder / WEIGHTS_NAME
    if path.is_file():
        return read_header(path)
    if any(folder.glob("*.bin")):
        raise ModelError(
            f"{folder} holds only pickled weights, which edgepipe never reads: save the adapter "
            "again with safe_serialization=True."
        )
    raise ModelError(f"{folder} holds no {WEIGHTS_NAME}: give the folder of a PEFT adapter.")


def _renamed(folder: Path, tensor: SourceTensor) -> SourceTensor:
    name = tensor.name.removeprefix(PREFIX)
    if name == tensor.name or module_of(name) is None:
        raise ModelError(
            f"The adapter in {folder} has {tensor.name[:120]}, which is no LoRA of a linear "
            "module: merge it into its model with PEFT, and run that."
        )
    return replace(tensor, name=name)


def _check_pair(
    folder: Path, module: str, pair: Mapping[str, SourceTensor], rank: int, shape: ModelShape
) -> None:
    """Raise ModelError unless both halves are there, of this rank, and of the weight's size."""
    weight = f"{module}.weight"
    if weight not in shape.parameters:
        tied = " (it shares the embedding's)" if shape.tied and module == "lm_head" else ""
        raise ModelError(
            f"The adapter in {folder} changes {weight[:120]}, but {shape.name} has no such weight "
            f"of its own{tied}: use an adapter of this model."
        )
    a, b = pair.get(LORA_A), pair.get(LORA_B)
    if a is None or b is None:
        raise ModelError(f"The adapter in {folder} has only half of {module}: export it again.")
    if not {a.dtype, b.dtype} <= _FLOATS or len(a.shape) != 2 or len(b.shape) != 2:
        raise ModelError(f"The adapter in {folder} has no matrices for {module}: export it again.")
    if a.shape[0] != rank or b.shape[1] != rank:
        raise ModelError(
            f"The adapter in {folder} is of rank {a.shape[0]} at {module}, but its config says "
            f"{rank}: export it again."
        )
    if b.shape[0] * a.shape[1] != shape.parameters[weight]:
        raise ModelError(
            f"The adapter in {folder} does not fit {shape.name}: {weight} has "
            f"{shape.parameters[weight]} values, the adapter's [{b.shape[0]}, {a.shape[1]}]: "
            "use an adapter of this model."
        )
