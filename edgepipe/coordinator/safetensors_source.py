"""Safetensors files and sharded folders: which tensor lies where. Headers only, bounded.

    u64 header length | header (JSON: name -> dtype, shape, data_offsets) | data

Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgepipe.coordinator.source import SourceTensor
from edgepipe.errors import DamagedWeights, ModelError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""
MAX_DIMENSIONS = 16
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def read_folder(folder: Path) -> tuple[SourceTensor, ...]:
    """Every tensor of a Hugging Face folder.

    Raises:
        ModelError: the folder holds no safetensors.
        DamagedWeights: a shard is missing, cut off or inconsistent.
    """
    index = folder / INDEX_NAME
    if index.is_file():
        return _read_shards(folder, read_weight_map(index))
    return read_header(_single_file(folder))


def read_weight_map(index: Path) -> dict[str, str]:
    """A shard index: the name of each tensor's file, always beside the index."""
    content = _parse(index.read_bytes(), index)
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict) or not all(map(_is_plain_name, weight_map.values())):
        raise DamagedWeights(f"{index} is not a shard index: download the model again.")
    return weight_map


def read_header(path: Path) -> tuple[SourceTensor, ...]:
    """The tensors of one safetensors file, each checked to lie inside it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, size - 8):
            raise DamagedWeights(
                f"{path} is not a whole safetensors file (its header does not fit in its "
                f"{size} bytes): download it again."
            )
        header = _parse(file.read(header_bytes), path)
    header.pop("__metadata__", None)
    start = 8 + header_bytes
    return tuple(_tensor(path, name, entry, start, size) for name, entry in header.items())


def _single_file(folder: Path) -> Path:
    single = folder / SINGLE_NAME
    if single.is_file():
        return single
    files = sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    raise ModelError(_why_not(folder, files))


def _why_not(folder: Path, files: list[Path]) -> str:
    if files:
        return f"{folder} holds several .safetensors files and no {INDEX_NAME}: add the index."
    if any(any(folder.glob(pattern)) for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt")):
        return (
            f"{folder} holds only pickled weights, which edgepipe never reads: "
            "convert them to safetensors."
        )
    return f"{folder} holds a config but no weights: put the model's .safetensors files there."


def _read_shards(folder: Path, weight_map: dict[str, str]) -> tuple[SourceTensor, ...]:
    found = {}
    for shard in sorted(set(weight_map.values())):
        path = folder / shard
        if not path.is_file():
            raise DamagedWeights(
                f"{folder} lacks the shard {shard} that its index names: download it again."
            )
        found.update({(shard, tensor.name): tensor for tensor in read_header(path)})
    return tuple(_indexed(found, folder, name, shard) for name, shard in weight_map.items())


def _indexed(
    found: dict[tuple[str, str], SourceTensor], folder: Path, name: str, shard: str
) -> SourceTensor:
    try:
        return found[shard, name]
    except KeyError:
        raise DamagedWeights(
            f"{folder / shard} lacks the tensor {name} that the index promises: download it again."
        ) from None


def _tensor(path: Path, name: str, entry: Any, start: int, size: int) -> SourceTensor:
    def damaged(why: str) -> DamagedWeights:
        return DamagedWeights(f"{path} is damaged at tensor {name} ({why}): download it again.")

    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(first), int(end)]}:
            pass
        case _:
            raise damaged("its entry is malformed")
    if dtype not in ITEM_BYTES:
        raise damaged(f"unknown dtype {dtype[:20]}")
    if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in shape):
        raise damaged("its shape is malformed")
    if not 0 <= first <= end <= size - start:
        raise damaged("its bytes lie outside the file")
    if end - first != math.prod(shape) * ITEM_BYTES[dtype]:
        raise damaged("its size does not match its dtype and shape")
    return SourceTensor(
        name=name,
        dtype=dtype,
        shape=tuple(shape),
        path=path,
        offset=start + first,
        size_bytes=end - first,
    )


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise DamagedWeights(f"{path} has an unreadable header: download it again.")
    return content


def _is_plain_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
