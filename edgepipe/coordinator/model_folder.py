"""A Hugging Face folder as it is written: config, tokenizer, and weights in one file or more.

config.json  generation_config.json  tokenizer.json  …
model.safetensors                                    up to 4 GB, else
model-00001-of-00003.safetensors  …  model.safetensors.index.json
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch

from edgepipe.coordinator.safetensors_source import INDEX_NAME, SINGLE_NAME
from edgepipe.engine.state_file import Described, bytes_of, header_of

MAX_SHARD_BYTES = 4_000_000_000
_METADATA = {"format": "pt"}
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "*.model", "chat_template.jinja",
    "chat_template.json", "generation_config.json",
)  # fmt: skip

Tensors = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of weights."""

    name: str
    tensors: tuple[Described, ...]


def shards_of(tensors: Sequence[Described], max_bytes: int = MAX_SHARD_BYTES) -> tuple[Shard, ...]:
    """The files that tensors go to, in their order, each as full as it may be."""
    groups: list[list[Described]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.num_bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.num_bytes
    if len(groups) == 1:
        return (Shard(name=SINGLE_NAME, tensors=tuple(groups[0])),)
    return tuple(
        Shard(name=f"model-{i:05d}-of-{len(groups):05d}.safetensors", tensors=tuple(group))
        for i, group in enumerate(groups, start=1)
    )


def write_weights(folder: Path, shards: Sequence[Shard], tensors: Tensors) -> None:
    """Write tensors as they come, which is in the shards' order. Raises OSError."""
    for shard in shards:
        with FileIO(folder / shard.name, "w") as file:
            _write_all(file, memoryview(header_of(shard.tensors, _METADATA)))
            for expected in shard.tensors:
                name, tensor = next(tensors)
                found = Described(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape))
                assert found == expected, "tensors come as they were described"
                _write_all(file, bytes_of(tensor))
            os.fsync(file.fileno())
    if len(shards) > 1:
        (folder / INDEX_NAME).write_text(json.dumps(_index(shards), indent=2))


def write_config(folder: Path, config: Mapping[str, Any], *, architecture: str, dtype: str) -> None:
    """Write config.json, without what only the base's files are: a quantisation, or code."""
    left_out = {"quantization_config", "auto_map", "torch_dtype"}
    fields = {key: value for key, value in config.items() if key not in left_out}
    fields |= {"architectures": [architecture], "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy what a model's folder holds of a tokenizer, and how its authors sample from it."""
    for pattern in _TOKENIZER_FILES:
        for file in sorted(source.glob(pattern)):
            shutil.copyfile(file, folder / file.name)


def _index(shards: Sequence[Shard]) -> dict[str, Any]:
    total = sum(tensor.num_bytes for shard in shards for tensor in shard.tensors)
    return {
        "metadata": {"total_size": total},
        "weight_map": {tensor.name: shard.name for shard in shards for tensor in shard.tensors},
    }


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
