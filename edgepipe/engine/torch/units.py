"""What a stage trains, by unit: what a checkpoint keeps in one file, and one stage restores.

model.embed_tokens.weight                  embedding, or head where the two are tied
model.layers.7.mlp.up_proj.weight          layer-00007
model.norm.weight, lm_head.weight          head
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgepipe.engine.torch.adapters import plain_name
from edgepipe.engine.torch.anatomy import Anatomy
from edgepipe.engine.torch.build import BuiltStage
from edgepipe.engine.torch.optimizer import STEP, StageOptimizer
from edgepipe.errors import DamagedWeights

EMBEDDING = "embedding"
HEAD = "head"

Unit = dict[str, torch.nn.Parameter]
"""Trained tensors, by their names in the whole model."""


def trained_units(
    built: BuiltStage, *, without: torch.nn.Parameter | None = None
) -> dict[str, Unit]:
    """What of a stage is trained, by unit, in the model's order; `without` belongs to another."""
    units: dict[str, Unit] = {}
    for own_name, parameter in built.model.named_parameters():
        if parameter.requires_grad and parameter is not without:
            name = plain_name(built.anatomy.tied.get(own_name, own_name))
            units.setdefault(unit_of(name, built.anatomy), {})[name] = parameter
    return dict(sorted(units.items(), key=_place))


def unit_of(name: str, anatomy: Anatomy) -> str:
    """The unit of the tensor that is called `name` in the whole model."""
    prefix = f"{anatomy.stack}."
    if name.startswith(prefix):
        index = int(name.removeprefix(prefix).partition(".")[0])
        return f"layer-{index:05d}"
    module = name.rpartition(".")[0]
    is_head = name in anatomy.tied.values() or module in anatomy.after
    return HEAD if is_head else EMBEDDING


def _place(entry: tuple[str, Any]) -> tuple[int, str]:
    unit = entry[0]
    return {EMBEDDING: 0, HEAD: 2}.get(unit, 1), unit


def unit_state(unit: Unit, optimizer: StageOptimizer) -> dict[str, torch.Tensor]:
    """A unit's tensors on the host, named as TrainingEngine.export_state says."""
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in unit.items():
        tensors[name] = parameter.detach().cpu()
        for moment, value in optimizer.moments(parameter).items():
            tensors[f"{name}#{moment}"] = value.cpu()
    steps = max(optimizer.num_steps(parameter) for parameter in unit.values())
    return {**tensors, f"#{STEP}": torch.tensor([steps])}


def restore_unit(
    name: str, unit: Unit, optimizer: StageOptimizer, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Take what `unit_state` gave. Raises DamagedWeights where it is not this unit's."""
    given = {each.partition("#")[0] for each in tensors} - {""}
    if given != unit.keys() or f"#{STEP}" not in tensors:
        odd = next(iter(sorted(given ^ unit.keys())), f"#{STEP}")
        raise _damaged(name, odd)
    if tensors[f"#{STEP}"].numel() != 1:
        raise _damaged(name, f"#{STEP}")
    num_steps = int(tensors[f"#{STEP}"])
    moments = {each: _moments(each, tensors) for each in unit}
    for each, parameter in unit.items():
        fits = _fits(tensors.get(each), parameter)
        if not fits or not optimizer.takes(parameter, moments[each]):
            raise _damaged(name, each)
    for each, parameter in unit.items():
        with torch.no_grad():
            parameter.copy_(tensors[each])
        optimizer.restore(parameter, moments[each], num_steps)


def _fits(tensor: torch.Tensor | None, parameter: torch.nn.Parameter) -> bool:
    return tensor is not None and tensor.shape == parameter.shape and tensor.is_floating_point()


def _moments(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = f"{name}#"
    return {
        each.removeprefix(prefix): tensor
        for each, tensor in tensors.items()
        if each.startswith(prefix)
    }


def _damaged(unit: str, name: str) -> DamagedWeights:
    return DamagedWeights(
        f"The state of {unit} does not fit the model at {name}: it is of another run, or damaged."
    )
