import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_files import random_array, write_folder

from edgepipe.coordinator.safetensors_source import read_folder, read_header
from edgepipe.errors import DamagedWeights, EdgepipeError, ModelError


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_tensor_is_found_where_the_library_wrote_it(tmp_path: Path) -> None:
    arrays = {"b": random_array(3, 5), "a": np.arange(7, dtype=np.int64)}
    write_folder(tmp_path, [arrays])
    for tensor in read_folder(tmp_path):
        array = arrays[tensor.name]
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset)
            assert file.read(tensor.size_bytes) == array.tobytes()
        assert tensor.shape == array.shape
    assert {tensor.dtype for tensor in read_folder(tmp_path)} == {"F32", "I64"}


def test_shards_are_read_by_their_index(tmp_path: Path) -> None:
    write_folder(tmp_path, [{"a": random_array(2)}, {"b": random_array(3)}])
    found = {tensor.name: tensor.path.name for tensor in read_folder(tmp_path)}
    assert found == {"a": "model-0.safetensors", "b": "model-1.safetensors"}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, [{"a": random_array(2)}, {"b": random_array(3)}])
    (tmp_path / "model-1.safetensors").unlink()
    with pytest.raises(DamagedWeights, match=r"lacks the shard model-1\.safetensors"):
        read_folder(tmp_path)


def test_a_tensor_that_the_index_promises_must_be_there(tmp_path: Path) -> None:
    write_folder(tmp_path, [{"a": random_array(2)}, {"b": random_array(3)}])
    (tmp_path / "model-1.safetensors").write_bytes((tmp_path / "model-0.safetensors").read_bytes())
    with pytest.raises(DamagedWeights, match="lacks the tensor b"):
        read_folder(tmp_path)


def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "../secret.safetensors"}})
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(DamagedWeights, match="not a shard index"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "holds a config but no weights"),
        (("pytorch_model.bin",), "only pickled weights"),
        (("x.safetensors", "y.safetensors"), "add the index"),
    ],
)
def test_a_folder_without_weights_says_what_it_wants(
    tmp_path: Path, files: tuple[str, ...], sentence: str
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=sentence):
        read_folder(tmp_path)


def test_a_file_that_is_cut_off_names_the_tensor(tmp_path: Path) -> None:
    write_folder(tmp_path, [{"a": random_array(2), "z": random_array(1000)}])
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DamagedWeights, match=r"model\.safetensors is damaged at tensor z .*outside"
    ):
        read_folder(tmp_path)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({**ENTRY, "dtype": "F99"}, "unknown dtype F99"),
        ({**ENTRY, "shape": [3]}, "does not match"),
        ({**ENTRY, "shape": [-2]}, "its shape"),
        ({**ENTRY, "shape": [1] * 17}, "its shape"),
        ({**ENTRY, "data_offsets": [8, 0]}, "outside the file"),
        ({**ENTRY, "data_offsets": [-8, 0]}, "outside the file"),
        ({**ENTRY, "data_offsets": [0, 1 << 60]}, "outside the file"),
        ({"dtype": "F32"}, "malformed"),
        (7, "malformed"),
    ],
)
def test_an_entry_that_lies_is_refused(tmp_path: Path, entry: object, why: str) -> None:
    path = raw_file(tmp_path / "x.safetensors", {"t": entry}, bytes(8))
    with pytest.raises(DamagedWeights, match=f"at tensor t .*{why}"):
        read_header(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\1\0\0", struct.pack("<Q", 1 << 40), struct.pack("<Q", 2) + b"[]",
     struct.pack("<Q", 4000) + b"[" * 4000, struct.pack("<Q", 3) + b"{\xff}"],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(DamagedWeights):
        read_header(path)


@given(damage=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_anywhere_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, damage: list[tuple[int, int]]
) -> None:
    folder = write_folder(
        tmp_path_factory.mktemp("d"), [{"a": random_array(4), "b": random_array(9)}]
    )
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    for position, value in damage:
        content[position % len(content)] = value
    path.write_bytes(content)
    try:
        tensors = read_header(path)
    except EdgepipeError:
        return
    assert all(t.offset + t.size_bytes <= len(content) for t in tensors)
