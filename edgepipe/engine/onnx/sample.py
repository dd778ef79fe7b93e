"""Some layers of a model with random weights on ONNX Runtime, for measuring."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from edgepipe.core.frame import DType
from edgepipe.core.measured import Measurement
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.onnx.blocks import BLOCK
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
        _write_randomly(text, sample, part, offsets=asked.offsets)
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


def _write_randomly(config: Mapping[str, Any], cut: Cut, part: Path, *, offsets: bool) -> None:
    """The weights of a cut; with `offsets` its layers hold matrices as a `.gguf` of Q4_1 does."""
    model = build_on_meta(read_config(config), DType.BFLOAT16)
    random = torch.Generator().manual_seed(0)
    metas = {
        name: meta
        for item in stage_weights(model, examine(model), cut)
        for name, meta in item.in_checkpoint.items()
    }
    tensors, described = {}, {}
    for name, meta in metas.items():
        if offsets and cut.layers and meta.ndim == 2 and meta.shape[1] % BLOCK == 0:
            tensors[name] = _random_blocks(meta.shape, random)
            described[name] = {"name": name, "type": "Q4_1", "shape": list(meta.shape)}
        else:
            values = torch.empty(meta.shape, dtype=torch.bfloat16)
            tensors[name] = values.uniform_(-SPREAD, SPREAD, generator=random)
    # An architecture that nobody knows: the rows stand as they are.
    gguf = {"architecture": "random", "tensors": described}
    save_file(tensors, part, {"gguf": json.dumps(gguf)} if described else None)


def _random_blocks(shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    """Q4_1 blocks, uint8 [rows, bytes]: scale and least value as float16, then 32 times 4 bits."""
    rows, columns = shape
    head = torch.tensor([SPREAD / 8, -SPREAD], dtype=torch.float16).view(torch.uint8)
    blocks = torch.empty((rows, columns // BLOCK, len(head) + BLOCK // 2), dtype=torch.uint8)
    blocks.random_(0, 256, generator=random)
    blocks[..., : len(head)] = head
    return blocks.view(rows, -1)
