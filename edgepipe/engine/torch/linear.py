"""The linear modules in a model's layers, and the leaf names that adapters are asked for by.

model.layers.0.self_attn.q_proj     is the linear module with the leaf name q_proj
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from edgepipe.core.frame import DType
from edgepipe.engine.torch.anatomy import Anatomy, Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, float32_names, read_config
from edgepipe.errors import UsageError

_FORWARDS = (torch.nn.Linear.forward, Conv1D.forward)


def linear_modules(model: Any, stack: str, layers: Iterable[int]) -> dict[str, Any]:
    """The linear modules of some layers, by their full names."""
    return {
        f"{stack}.{index}.{name}": module
        for index in layers
        for name, module in model.get_submodule(stack)[index].named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D)
    }


def plain_linears(model: Any, anatomy: Anatomy, cut: Cut) -> list[str]:
    """The weights in a stage's layers and head that a weight format applies to.

    Those of linear modules that multiply as torch's do, and that may be of any type.
    """
    modules = linear_modules(model, anatomy.stack, cut.layers)
    if cut.head:
        modules |= {name: model.get_submodule(name) for name in anatomy.after}
    is_float32 = float32_names(model)
    return [
        f"{name}.weight"
        for name, module in modules.items()
        if type(module).forward in _FORWARDS and not is_float32(f"{name}.weight")
    ]


def leaf_names(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Leaf names of all linear modules in the layers of the whole model, in the model's order.

    Takes seconds for a deep model. Raises ModelError where it cannot be cut into stages.
    """
    model = build_on_meta(read_config(config), DType.FLOAT32)
    anatomy = examine(model)
    modules = linear_modules(model, anatomy.stack, range(anatomy.num_layers))
    return tuple(dict.fromkeys(leaf_of(name) for name in modules))


def leaf_of(name: str) -> str:
    """The last part of a module's name."""
    return name.rpartition(".")[2]


def check_leaf_names(asked: Sequence[str], known: Sequence[str]) -> None:
    """Raises UsageError naming the first that no linear module has."""
    for name in asked:
        if name not in known:
            raise UsageError(
                f"No linear module in the model's layers is called {name!r}: "
                f"take some of {', '.join(known)}, or all-linear."
            )
    if not asked:
        raise UsageError(f"Name at least one module to adapt: some of {', '.join(known)}.")
