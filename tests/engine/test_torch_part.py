from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgepipe.engine.torch.part import read_part
from edgepipe.engine.torch.weights import read_plain
from edgepipe.errors import DamagedWeights


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.mark.parametrize(
    "stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str
)
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16], ids=str)
def test_a_tensor_is_read_in_any_type(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    path = tmp_path / "part.safetensors"
    values = torch.randn(700, 531, generator=torch.Generator().manual_seed(0)).to(stored)
    save_file({"other": torch.ones(3), "a": values}, path)
    target = torch.empty(values.shape, dtype=wanted)
    counted: list[int] = []
    read_plain(read_part(path)["a"], target, counted.append)
    assert torch.equal(target, values.to(wanted))
    assert sum(counted) == values.nbytes


def test_an_empty_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"a": torch.empty(0, 4)}, path)
    read_plain(read_part(path)["a"], torch.empty(0, 4), lambda _: None)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DamagedWeights, match=r"nowhere\.safetensors cannot be read"):
        read_part(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0",
        b"\xff" * 64,
        b"not a weight file at all",
        struct.pack("<Q", 4) + b"{{{{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"\xff\xfe\xfd",
    ],
)
def test_a_header_that_is_not_one_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "part.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedWeights, match=r"part\.safetensors"):
        read_part(path)


@pytest.mark.parametrize(
    "damaged",
    [
        entry(dtype="F31"),
        entry(shape=[3]),
        entry(shape=[-2]),
        entry(shape="2"),
        entry(shape=[1] * 99),
        entry(data_offsets=[-8, 0]),
        entry(data_offsets=[0, 8, 16]),
        entry(data_offsets=[8, 0]),
        entry(shape=[1 << 60], data_offsets=[0, 1 << 62]),
        entry(data_offsets=[8, 16]),
        {"dtype": "F32"},
        7,
    ],
)
def test_an_entry_that_cannot_be_is_damage(tmp_path: Path, damaged: Any) -> None:
    path = write(tmp_path / "part.safetensors", {"model.norm.weight": damaged}, b"\0" * 8)
    with pytest.raises(DamagedWeights, match=r"(?s)model\.norm\.weight.*part\.safetensors|part"):
        read_part(path)


def test_a_file_that_was_cut_short_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"a.weight": torch.ones(100)}, path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DamagedWeights, match=r"a\.weight in .*part\.safetensors ends 12 bytes"):
        read_part(path)


def test_a_file_that_shrinks_after_it_was_opened_names_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"a.weight": torch.ones(100)}, path)
    stored = read_part(path)["a.weight"]
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DamagedWeights, match=r"a\.weight in .* is cut short"):
        read_plain(stored, torch.empty(100), lambda _: None)


@pytest.mark.parametrize(
    "described",
    [
        "{",
        json.dumps([]),
        json.dumps({"architecture": "llama", "tensors": {"a": {"type": "Q9", "shape": [2, 32]}}}),
        json.dumps({"architecture": "llama", "tensors": {"a": {}}}),
        json.dumps(
            {"architecture": "llama", "tensors": {"a": {"type": "F32", "shape": [], "name": "a"}}}
        ),
    ],
)
def test_a_gguf_description_that_is_not_one_is_damage(tmp_path: Path, described: str) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"a": torch.ones(2)}, path, {"gguf": described})
    with pytest.raises(DamagedWeights, match="GGUF description"):
        read_part(path)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("Q4_0", [2, 32]), ("Q8_0", [3, 32]), ("Q8_0", [2, 33]), ("Q8_0", [2, 64]), ("F32", [2, 34])],
)
def test_blocks_that_do_not_fit_their_description_are_damage(
    tmp_path: Path, kind: str, shape: list[int]
) -> None:
    path = tmp_path / "part.safetensors"
    tensors = {"a.weight": {"type": kind, "shape": shape, "name": "a"}}
    metadata = {"gguf": json.dumps({"architecture": "llama", "tensors": tensors})}
    save_file({"a.weight": torch.zeros(2, 34, dtype=torch.uint8)}, path, metadata)
    with pytest.raises(DamagedWeights, match=r"a\.weight in .*GGUF description"):
        read_part(path)
