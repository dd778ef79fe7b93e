"""LoRA (Hu et al. 2021) merged into a weight while it is read: W + scale · B A, in float32.

A weight is [out, in], or [in, out] in a Conv1D. Adapters lie in part files, as weights do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from edgepipe.core.lora import LORA_A, LORA_B, SCALE_OPTION
from edgepipe.engine.torch.part import FLOAT_DTYPES, TORCH_DTYPES, StoredTensor, read_part
from edgepipe.errors import DamagedWeights, ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What an adapter adds to one weight."""

    a: StoredTensor
    b: StoredTensor

    def merge(self, weight: torch.Tensor, scale: float, *, transposed: bool) -> None:
        """Add scale · B A to a float32 weight in place. Raises DamagedWeights on another shape."""
        a, b = (_float32(stored).to(weight.device) for stored in (self.a, self.b))
        target = weight.T if transposed else weight
        if a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != tuple(target.shape):
            raise self.a.damaged(
                f"is of an adapter for weights of the shape {[b.shape[0], a.shape[1]]}, "
                f"but the model's are {list(target.shape)}"
            )
        target.addmm_(b, a, alpha=scale)


def pairs_of(index: Mapping[str, StoredTensor]) -> dict[str, Pair]:
    """The pairs among stored tensors, by the weight that each adds to."""
    modules = [name.removesuffix(LORA_A) for name in index if name.endswith(LORA_A)]
    halves = {name.removesuffix(LORA_B) for name in index if name.endswith(LORA_B)}
    if lonely := halves.symmetric_difference(modules):
        raise DamagedWeights(f"The adapter has only half of {min(lonely)}: export it again.")
    return {
        f"{module}.weight": Pair(a=index[module + LORA_A], b=index[module + LORA_B])
        for module in modules
    }


def adapter_scale(options: Mapping[str, Any]) -> float | None:
    """What a stage's options say of its adapter: what B A is multiplied by; None without one.

    Raises ModelError where that is no number.
    """
    scale = options.get(SCALE_OPTION)
    if scale is None:
        return None
    if type(scale) is not float or not math.isfinite(scale):
        raise ModelError("The scale of the adapter is not a number: run one version.")
    return scale


def is_transposed(model: Any, weight: str) -> bool:
    """Whether a weight of a model is stored [in, out]."""
    return isinstance(model.get_submodule(weight.rpartition(".")[0]), Conv1D)


def _float32(stored: StoredTensor) -> torch.Tensor:
    if len(stored.shape) != 2 or stored.dtype not in FLOAT_DTYPES:
        raise stored.damaged("is no matrix of floats")
    values = bytearray(b"".join(stored.pieces(TORCH_DTYPES[stored.dtype].itemsize)))
    flat = torch.frombuffer(values, dtype=TORCH_DTYPES[stored.dtype])
    return flat.view(stored.shape).float()


def read_adapters(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    """The adapters in the files of a checkpoint's units, float32, by their names in the model.

    Raises:
        DamagedWeights: half of one is missing, or one is no matrix.
    """
    index = {name: stored for file in files for name, stored in read_part(file).items()}
    pairs = pairs_of(index)
    return {stored.name: _float32(stored) for pair in pairs.values() for stored in (pair.a, pair.b)}
