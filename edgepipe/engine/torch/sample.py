"""Some layers of a model with random weights, for measuring: nothing is read or transferred.

layers  0   1   2   3   4   5        the kinds of layers
        a   b   a   a   b   a
        ■   ·   ■   ■   ·   ·        a sample of three of kind a; the others pass through
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edgepipe.core.frame import DType
from edgepipe.engine.torch.anatomy import Anatomy, Cut, examine, layer_weights
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.stage_model import empty_foreign_parts, rebuild_buffers
from edgepipe.engine.torch.weights import ItemWeights, stage_weights

SPREAD = 0.02
"""Weights lie within this: activations neither vanish nor overflow, and none is denormal."""
_BLOCK_VALUES = 1_000_003
"""Random values that are repeated, since drawing each takes longer than measuring. A prime, so
that no two rows of a matrix are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample(Cut):
    """The layers `chosen` of a model, which need not follow one another."""

    chosen: tuple[int, ...]

    @property
    def layers(self) -> Sequence[int]:
        """The sample's own layers."""
        return self.chosen


def sample_of(chosen: Sequence[int]) -> Sample:
    """The cut that holds these layers, rising, and nothing else."""
    first, end = (chosen[0], chosen[-1] + 1) if chosen else (0, 0)
    return Sample(first=first, end=end, embedding=False, head=False, chosen=tuple(chosen))


def layer_kinds(model: Any, anatomy: Anatomy) -> tuple[int, ...]:
    """The kind of every layer, numbered as they come: equal shapes and equal attention."""
    count = anatomy.num_layers
    attention = getattr(model.config.get_text_config(), "layer_types", None) or [""] * count
    known: dict[Any, int] = {}
    return tuple(
        known.setdefault((attention[index], _shapes(model, anatomy, index)), len(known))
        for index in range(count)
    )


def _shapes(model: Any, anatomy: Anatomy, index: int) -> tuple[tuple[str, tuple[int, ...]], ...]:
    prefix = f"{anatomy.stack}.{index}."
    weights = layer_weights(model, anatomy, index)
    return tuple((name.removeprefix(prefix), tuple(t.shape)) for name, t in weights.items())


def random_stage(
    config: Mapping[str, Any], dtype: DType, cut: Cut, device: torch.device
) -> tuple[Any, Anatomy]:
    """The model cut to a stage whose weights are random. Raises ModelError as `examine`."""
    model = build_on_meta(read_config(config), dtype)
    anatomy = examine(model)
    items = stage_weights(model, anatomy, cut)
    empty_foreign_parts(model, anatomy, cut)
    fill_randomly(model, items, device)
    rebuild_buffers(model, device)
    return model, anatomy


def fill_randomly(model: Any, items: Iterable[ItemWeights], device: torch.device) -> None:
    """Give every weight of `items` values on the device; one of a single dimension gets ones."""
    block = torch.empty(_BLOCK_VALUES).uniform_(-SPREAD, SPREAD).to(device)
    placed: dict[str, torch.Tensor] = {}
    for name, meta in [entry for item in items for entry in item.in_model.items()]:
        source = model.all_tied_weights_keys.get(name, name)
        if source not in placed:
            placed[source] = _filled(meta, block)
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, placed[source])


def _filled(meta: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    tensor = torch.empty(meta.shape, dtype=meta.dtype, device=block.device)
    if tensor.ndim < 2:
        tensor.fill_(1)
    else:
        for piece in torch.split(tensor.view(-1), len(block)):
            piece.copy_(block[: len(piece)])
    is_parameter = isinstance(meta, torch.nn.Parameter)
    filled = torch.nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
    filled._is_hf_initialized = True  # type: ignore[attr-defined]  # noqa: SLF001
    return filled
