import hashlib
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors
from tiny_files import random_array, write_folder

from edgepipe.coordinator.gguf_source import read_index
from edgepipe.coordinator.models import Model
from edgepipe.coordinator.parts import Part, build_parts, parts_for
from edgepipe.coordinator.safetensors_source import read_folder
from edgepipe.errors import DamagedWeights, ModelError

ARRAYS = {
    "model.embed_tokens.weight": random_array(7, 4),
    "model.layers.0.attn.weight": random_array(4, 4, seed=1),
    "model.layers.0.norm.weight": random_array(4, seed=2).astype(np.float16),
    "model.layers.1.experts.3.weight": random_array(4, 4, seed=3),
    "model.norm.weight": random_array(4, seed=4),
    "lm_head.weight": random_array(7, 4, seed=5),
}


def whole(part: Part) -> bytes:
    return part.read(0, part.size_bytes + 10)


def test_one_part_for_each_layer_and_each_tensor_outside_them(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [dict(list(ARRAYS.items())[:2]), dict(list(ARRAYS.items())[2:])])
    parts = build_parts(read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path)
    assert [part.tensors for part in parts] == [
        ("model.embed_tokens.weight",),
        ("model.layers.0.attn.weight", "model.layers.0.norm.weight"),
        ("model.layers.1.experts.3.weight",),
        ("model.norm.weight",),
        ("lm_head.weight",),
    ]


def test_a_part_is_a_safetensors_file_with_the_very_bytes_and_hash(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    for part in build_parts(read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path):
        content = whole(part)
        assert len(content) == part.size_bytes
        assert hashlib.sha256(content).hexdigest() == part.sha256
        loaded = load_safetensors(content)
        assert set(loaded) == set(part.tensors)
        for name, array in loaded.items():
            assert array.dtype == ARRAYS[name].dtype
            assert np.array_equal(array, ARRAYS[name])


def test_any_range_of_a_part_can_be_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    part = build_parts(read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path)[1]
    content = whole(part)
    for offset in range(part.size_bytes + 1):
        assert part.read(offset, 13) == content[offset : offset + 13]


def test_one_model_has_one_set_of_hashes_wherever_it_lies(tmp_path: Path) -> None:
    write_folder(tmp_path / "one", [ARRAYS])
    write_folder(tmp_path / "two", [{name: array} for name, array in ARRAYS.items()])
    one, two = (
        build_parts(read_folder(tmp_path / name), list(ARRAYS), home=tmp_path / f"home-{name}")
        for name in ("one", "two")
    )
    assert [part.sha256 for part in one] == [part.sha256 for part in two]


def test_hashes_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    names = list(ARRAYS)
    first = build_parts(read_folder(tmp_path / "m"), names, home=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(
            "edgepipe.coordinator.layout.LayoutReader.read", lambda *_: pytest.fail("read")
        )
        again = build_parts(read_folder(tmp_path / "m"), names, home=tmp_path)
    assert again == first
    write_folder(tmp_path / "m", [{**ARRAYS, "model.norm.weight": random_array(4, seed=9)}])
    changed = build_parts(read_folder(tmp_path / "m"), names, home=tmp_path)
    assert [a == b for a, b in zip(first, changed, strict=True)].count(False) >= 1
    assert changed[3].sha256 == hashlib.sha256(whole(changed[3])).hexdigest() != first[3].sha256


def test_progress_ends_at_the_sum_of_the_parts(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    calls: list[tuple[int, int]] = []
    parts = build_parts(
        read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    total = sum(part.size_bytes for part in parts)
    assert calls[-1] == (total, total)
    assert calls == sorted(calls)


def test_a_base_models_checkpoint_gets_the_prefix_and_loses_its_masks(tmp_path: Path) -> None:
    stored = {
        "wte.weight": ARRAYS["lm_head.weight"],
        "h.0.ln.weight": random_array(4),
        "h.0.attn.bias": random_array(1, 9, 9),
        "h.0.attn.c.bias": random_array(4),
    }
    names = ["transformer.wte.weight", "transformer.h.0.ln.weight", "transformer.h.0.attn.c.bias"]
    write_folder(tmp_path / "m", [stored])
    parts = build_parts(read_folder(tmp_path / "m"), names, home=tmp_path)
    assert [part.tensors for part in parts] == [
        ("transformer.wte.weight",),
        ("transformer.h.0.ln.weight", "transformer.h.0.attn.c.bias"),
    ]
    assert set(load_safetensors(whole(parts[1]))) == set(parts[1].tensors)


def test_the_parts_of_a_stage_come_once_and_in_order(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    parts = build_parts(read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path)
    wanted = ["model.layers.0.norm.weight", "model.layers.0.attn.weight", "lm_head.weight"]
    assert parts_for(parts, wanted) == (parts[1], parts[4])


def test_a_tensor_that_no_part_has_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    parts = build_parts(read_folder(tmp_path / "m"), list(ARRAYS), home=tmp_path)
    with pytest.raises(ModelError, match=r"lack the tensor model\.layers\.7\.x"):
        parts_for(parts, ["model.layers.7.x"])


def test_a_file_that_shrinks_while_it_is_read_is_damage(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", [ARRAYS])
    source = read_folder(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    with pytest.raises(DamagedWeights, match=r"model\.safetensors is shorter"):
        build_parts(source, list(ARRAYS), home=tmp_path)


def test_gguf_blocks_travel_as_they_are_and_say_what_they_are(
    tiny_gguf_model: Model, tiny_gguf: Path, tmp_path: Path
) -> None:
    import gguf

    source = read_index(tiny_gguf, tiny_gguf_model.folder)
    original = {tensor.name: tensor for tensor in gguf.GGUFReader(tiny_gguf).tensors}
    parts = build_parts(source, [tensor.name for tensor in source], home=tmp_path)
    assert len(parts) == 4  # embedding, norm, two layers
    for part in parts:
        content = whole(part)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        described = json.loads(header["__metadata__"]["gguf"])
        assert described["architecture"] == "llama"
        for name, array in load_safetensors(content).items():
            told = described["tensors"][name]
            tensor = original[told["name"]]
            assert told["type"] == tensor.tensor_type.name
            assert tuple(told["shape"]) == tuple(reversed(tensor.shape))
            assert array.dtype == tensor.data.dtype
            assert np.array_equal(array, tensor.data)


def test_a_large_model_is_never_held_in_memory(tmp_path: Path) -> None:
    """500 MB in one layer, sparse on disk: hashing and reading keep a few chunks."""
    rows = 125_000_000
    header = json.dumps(
        {"model.layers.0.w": {"dtype": "F32", "shape": [rows], "data_offsets": [0, 4 * rows]}}
    ).encode()
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * rows)
    tracemalloc.start()
    try:
        (part,) = build_parts(read_folder(tmp_path), ["model.layers.0.w"], home=tmp_path)
        with part.open() as reader:
            size = sum(map(len, reader.chunks()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size == part.size_bytes
    assert peak < 16 << 20
