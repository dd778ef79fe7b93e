"""Built stages are kept by what they were built of."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgepipe.core.frame import DType
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.base import StageSpec
from edgepipe.engine.onnx.store import (
    DATA_NAME,
    GRAPH_NAME,
    Description,
    KVSize,
    StageStore,
    stage_key,
)

KEYS = [letter * 64 for letter in "abc"]
KV = (KVSize(heads=2, key_dim=16, value_dim=16),)


def build(folder: Path, *, size: int = 1000) -> None:
    (folder / GRAPH_NAME).write_bytes(b"graph")
    (folder / DATA_NAME).write_bytes(b"\0" * size)
    Description(weight_bytes=size, kv=KV).write(folder)


@pytest.fixture
def store(tmp_path: Path) -> StageStore:
    return StageStore(tmp_path / "built", max_bytes=2500)


def test_what_was_added_is_found(store: StageStore) -> None:
    assert store.find(KEYS[0]) is None
    store.add(KEYS[0], build)
    found = store.find(KEYS[0])
    assert found is not None
    assert (found.weight_bytes, found.kv) == (1000, KV)


@pytest.mark.parametrize("name", [GRAPH_NAME, DATA_NAME, "stage.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", None])
def test_a_damaged_stage_counts_as_missing(
    store: StageStore, name: str, damage: bytes | None
) -> None:
    store.add(KEYS[0], build)
    path = store.path(KEYS[0]) / name
    path.unlink() if damage is None else path.write_bytes(damage)
    assert store.find(KEYS[0]) is None
    store.add(KEYS[0], build)
    assert store.find(KEYS[0]) is not None


def test_a_build_that_fails_leaves_nothing(store: StageStore, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / DATA_NAME).write_bytes(b"half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        store.add(KEYS[0], fail)
    assert not list((tmp_path / "built").iterdir())


def test_the_one_not_used_for_longest_makes_room(store: StageStore) -> None:
    for age, key in enumerate(KEYS[:2]):
        store.add(key, build)
        os.utime(store.path(key), (1000 + age, 1000 + age))
    assert store.find(KEYS[0]) is not None
    store.add(KEYS[2], build)
    assert [store.find(key) is not None for key in KEYS] == [True, False, True]


def test_one_that_is_too_large_is_kept_alone(store: StageStore) -> None:
    store.add(KEYS[0], build)
    store.add(KEYS[1], lambda folder: build(folder, size=9000))
    assert [store.find(key) is not None for key in KEYS] == [False, True, False]


def test_the_key_is_of_all_that_matters(tmp_path: Path) -> None:
    parts = [tmp_path / f"{letter * 64}.safetensors" for letter in "de"]
    spec = StageSpec(
        config={"model_type": "llama", "hidden_size": 64, "_name_or_path": "here"},
        first=0,
        end=2,
        embedding=True,
        head=False,
        dtype=DType.FLOAT32,
        num_slots=2,
        max_positions=64,
        weights=(parts[0],),
    )
    changes: list[dict[str, Any]] = [
        {"config": {"model_type": "llama", "hidden_size": 128}},
        {"end": 3},
        {"embedding": False},
        {"head": True},
        {"dtype": DType.FLOAT16},
        {"weight_format": WeightFormat.INT4},
        {"weights": (parts[1],)},
        {"options": {"adapter_scale": 2.0}},
    ]
    keys = {stage_key(replace(spec, **change), "cpu") for change in changes}
    assert len({*keys, stage_key(spec, "cpu"), stage_key(spec, "cuda")}) == len(changes) + 2
    idle: list[dict[str, Any]] = [
        {"config": {**spec.config, "_name_or_path": "there"}},
        {"num_slots": 8},
        {"max_positions": 32},
        {"weights": (tmp_path / "elsewhere" / parts[0].name,)},
    ]
    assert {stage_key(replace(spec, **change), "cpu") for change in idle} == {
        stage_key(spec, "cpu")
    }
