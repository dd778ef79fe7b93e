"""Some layers of a model with random weights on ONNX Runtime, for measuring."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edgepipe.core.frame import DType
from edgepipe.core.measured import Measurement
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.onnx.engine import OnnxEngine
from edgepipe.engine.torch.anatomy import Cut, examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.sample import SPREAD
from edgepipe.engine.torch.weights import stage_weights


def random_engine(
    config: Mapping[str, Any], asked: Measurement, cut: Cut, device: torch.device
) -> Engine:
    """The layers of a cut, which may be any of one kind, as if they followed one another.

    What a call takes besides is that of a lookup in the embedding's table, where the cut is empty.
    Raises ModelError for a model that the engine does not run.
    """
    text = _layers_alone(config, cut.layers)
    sample = Cut(
        first=0,
        end=len(cut.layers),
        embedding=cut.embedding or not (cut.layers or cut.head),
        head=cut.head,
    )
    engine = OnnxEngine(str(device))
    with tempfile.TemporaryDirectory(prefix="edgepipe-measure-") as folder:
        part = Path(folder) / "random.safetensors"
        _write_randomly(text, sample, part)
        engine.load(
            StageSpec(
                config=text,
                first=sample.first,
                end=sample.end,
                embedding=sample.embedding,
                head=sample.head,
                dtype=asked.dtype,
                num_slots=max(asked.decode_rows),
                max_positions=asked.capacity,
                weights=(part,),
                weight_format=asked.weight_format,
            ),
            lambda _done, _total: None,
        )
    return engine


def _layers_alone(config: Mapping[str, Any], layers: Sequence[int]) -> dict[str, Any]:
    """The config of a model that has these layers and no other."""
    text = {**config, "num_hidden_layers": max(1, len(layers))}
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        text["layer_types"] = [kinds[index] for index in layers] or kinds[:1]
    return text


def _write_randomly(config: Mapping[str, Any], cut: Cut, part: Path) -> None:
    model = build_on_meta(read_config(config), DType.BFLOAT16)
    random = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.empty(meta.shape, dtype=torch.bfloat16).uniform_(
            -SPREAD, SPREAD, generator=random
        )
        for item in stage_weights(model, examine(model), cut)
        for name, meta in item.in_checkpoint.items()
    }
    save_file(tensors, part)
