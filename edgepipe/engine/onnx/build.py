"""A stage's parts become a folder with its graph, its weights and a description."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from edgepipe.core.frame import DType
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import Progress, StageSpec
from edgepipe.engine.onnx.blocks import BLOCK, Blocks, rounded
from edgepipe.engine.onnx.config import stage_config
from edgepipe.engine.onnx.store import DATA_NAME, Description, KVSize
from edgepipe.engine.onnx.support import BUILDERS
from edgepipe.engine.onnx.tensors import StageTensors
from edgepipe.engine.torch.anatomy import examine
from edgepipe.engine.torch.architecture import build_on_meta, read_config
from edgepipe.engine.torch.part import TORCH_DTYPES

HEAD_BITS = 8
"""Held in 4 bits, SmolLM2's head alone costs 5 % of perplexity, and 6 % of speed when held in 8."""

_EMBEDDING_BITS = 8
_BITS = {WeightFormat.INT4: 4, WeightFormat.INT8: 8}


def build(spec: StageSpec, builder_name: str, folder: Path, progress: Progress) -> None:
    """Write a stage's files to `folder`. Raises ModelError or DamagedWeights.

    `builder_name` is what the model builder calls the execution provider.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what its libraries warn of is not ours to change
        _Build(spec, progress).write(builder_name, folder)


class _Build:
    def __init__(self, spec: StageSpec, progress: Progress) -> None:
        self._spec = spec
        self._model = build_on_meta(read_config(spec.config), DType.FLOAT32)
        self._anatomy = examine(self._model)
        self._tensors = StageTensors(self._model, self._anatomy, spec, progress)
        self._bits = _BITS.get(spec.weight_format) if spec.weight_format else None

    def write(self, builder_name: str, folder: Path) -> None:
        spec, stack = self._spec, self._anatomy.stack
        graph = self._graph(builder_name)
        with (folder / DATA_NAME).open("wb") as data:
            graph.begin(data)
            if spec.embedding:
                graph.embed(self._table())
            else:
                graph.enter()
            for index in range(spec.first, spec.end):
                graph.add_layer(index - spec.first, self._module(f"{stack}.{index}"))
            if spec.head:
                graph.end_with_head(*(self._module(name) for name in self._anatomy.after))
            else:
                graph.end_with_boundary()
            graph.save(folder)
            weight_bytes = data.tell()
        self._description(weight_bytes).write(folder)

    def _graph(self, builder_name: str) -> Any:
        import onnx_ir as ir  # noqa: PLC0415 -- seconds
        from onnxruntime_genai.models import builders  # noqa: PLC0415

        from edgepipe.engine.onnx.graph import StageGraph  # noqa: PLC0415

        spec = self._spec
        base = getattr(builders, BUILDERS[spec.config["model_type"]])
        kind = type(f"Stage{base.__name__}", (StageGraph, base), {})
        config = stage_config(spec.config, spec.first, spec.end, type(self._model).__name__)
        held = {
            DType.FLOAT32: ir.DataType.FLOAT,
            DType.FLOAT16: ir.DataType.FLOAT16,
            DType.BFLOAT16: ir.DataType.BFLOAT16,
        }[spec.dtype]
        quantised = {4: ir.DataType.INT4, 8: ir.DataType.INT8}
        options = {
            "exclude_embeds": not spec.embedding,
            "exclude_lm_head": not spec.head,
            "windowed_kv_cache": False,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            graph = kind(
                config, held, quantised.get(self._bits or 0, held), builder_name, "", options
            )
        if spec.config["model_type"].startswith("gemma"):
            graph.embed_attrs["scale"] = config.hidden_size**0.5  # the builder's is rounded
        return graph

    def _table(self) -> torch.Tensor | Blocks:
        """The embedding: in blocks of 8 bits where matrices are, else as its file holds it."""
        (module,) = self._anatomy.before
        name = f"{module}.weight"
        meta = self._model.get_parameter(name)
        if self._bits is not None and meta.shape[1] % BLOCK == 0:
            return self._blocks(name, meta, _EMBEDDING_BITS, kept={_EMBEDDING_BITS})
        dtype = TORCH_DTYPES[self._tensors.stored(name).dtype]
        values = self._tensors.values(name, meta)
        return values.to(dtype) if dtype in {torch.float16, torch.bfloat16} else values

    def _module(self, path: str) -> Any:
        """A copy of a module with its weights."""
        module = copy.deepcopy(self._model.get_submodule(path))
        for name, child in list(module.named_modules()):
            full = f"{path}.{name}" if name else path
            if (
                self._bits is not None
                and isinstance(child, torch.nn.Linear)
                and not _is_fused(name)
            ):
                linear = self._linear(full, child)
                if not name:
                    return linear
                parent, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(parent), leaf, linear)
            else:
                self._fill(full, child)
        return module

    def _fill(self, path: str, module: torch.nn.Module) -> None:
        for name, meta in list(module.named_parameters(recurse=False)):
            values = self._tensors.values(f"{path}.{name}", meta)
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))

    def _linear(self, path: str, module: torch.nn.Linear) -> Any:
        from edgepipe.engine.onnx.graph import BlockLinear  # noqa: PLC0415 -- seconds

        assert self._bits is not None, "only matrices in blocks come here"
        bits = HEAD_BITS if path in self._anatomy.after else self._bits
        bias = None
        if module.bias is not None:
            bias = self._tensors.values(f"{path}.bias", module.bias)
        blocks = self._blocks(f"{path}.weight", module.weight, bits, kept={bits, self._bits})
        return BlockLinear(blocks, bias)

    def _blocks(self, name: str, meta: torch.Tensor, bits: int, *, kept: set[int]) -> Blocks:
        """A matrix as it lies in its file if that has one of the `kept` bits, or rounded anew."""
        blocks = self._tensors.blocks(name, meta)
        if blocks is not None and blocks.bits in kept:
            return blocks
        return rounded(self._tensors.values(name, meta), bits)

    def _description(self, weight_bytes: int) -> Description:
        own = [self._anatomy.kv[index] for index in range(self._spec.first, self._spec.end)]
        return Description(
            weight_bytes=weight_bytes,
            kv=tuple(
                KVSize(heads=kv.num_heads, key_dim=kv.key_dim, value_dim=kv.value_dim)
                for kv in own
                if kv is not None
            ),
        )


def _is_fused(name: str) -> bool:
    """Whether the builder takes a matrix apart, which it can do with rows of floats alone."""
    return name.rpartition(".")[2] in {"qkv_proj", "gate_up_proj"}
