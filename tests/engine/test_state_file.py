from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from edgepipe.engine.state_file import CHUNK_BYTES, chunks_of, file_bytes, tensors_of
from edgepipe.errors import DamagedWeights

UNIT = {
    "model.norm.weight": torch.randn(5),
    "model.norm.weight#exp_avg": torch.randn(5, 3),
    "#step": torch.tensor([7]),
    "half": torch.randn(3, 7).to(torch.bfloat16),
    "odd": torch.arange(3, dtype=torch.uint8),
    "none": torch.empty(0, 4),
    "scalar": torch.tensor(2.5),
}


def whole(tensors: dict[str, torch.Tensor]) -> bytearray:
    return bytearray(b"".join(chunks_of(tensors)))


def expect_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype
        assert torch.equal(tensor, two[name])


def test_what_is_written_is_what_safetensors_reads() -> None:
    expect_equal(load(bytes(whole(UNIT))), UNIT)


def test_what_is_written_is_read_back() -> None:
    expect_equal(tensors_of(whole(UNIT), "a unit"), UNIT)


def test_its_size_is_known_before_it_is_written() -> None:
    assert file_bytes(UNIT) == len(whole(UNIT))


def test_a_transposed_tensor_is_written_row_by_row() -> None:
    tensor = torch.arange(12.0).view(3, 4).T
    expect_equal(tensors_of(whole({"w": tensor}), "a unit"), {"w": tensor.contiguous()})


def test_tensors_are_neither_copied_when_written_nor_when_read() -> None:
    tensors = {"w": torch.ones(4 << 20), "v": torch.ones(4 << 20)}
    data = whole(tensors)
    tracemalloc.start()
    try:
        assert max(map(len, chunks_of(tensors))) <= CHUNK_BYTES
        read = tensors_of(data, "a unit")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    data[-4:] = bytes(4)
    assert 0.0 in (read["w"][-1], read["v"][-1])


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


BAD_ENTRIES = {
    "no object": 7,
    "an unknown dtype": entry(dtype="F7"),
    "a negative size": entry(shape=[-2]),
    "a size that is no number": entry(shape=["2"]),
    "a boolean": entry(shape=[True, 2]),
    "too many sizes": entry(shape=[1] * 9 + [2]),
    "beyond the end": entry(shape=[4], data_offsets=[0, 16]),
    "before the start": entry(data_offsets=[-8, 0]),
    "backwards": entry(data_offsets=[8, 0]),
    "of another size": entry(shape=[1]),
}


@pytest.mark.parametrize("bad", BAD_ENTRIES.values(), ids=BAD_ENTRIES.keys())
def test_a_tensor_that_is_not_sound_is_named(bad: object) -> None:
    header = json.dumps({"model.w": bad}).encode()
    data = bytearray(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(DamagedWeights, match=r"layer-00003 is damaged at the tensor 'model\.w'"):
        tensors_of(data, "layer-00003")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=30))
def test_any_bytes_are_refused_or_read(cut: int, junk: bytes) -> None:
    data = whole(UNIT)
    data[cut : cut + len(junk)] = junk
    with suppress(DamagedWeights):
        tensors_of(data[: len(data) - cut], "it")
