from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, load_file
from written_checkpoints import FACTS, units, write_checkpoint

from edgepipe.coordinator.checkpoints import clear_leftovers, latest, prune, read_checkpoint, steps
from edgepipe.coordinator.manifest import config_hash
from edgepipe.errors import CheckpointError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (40, 60):
        write_checkpoint(tmp_path, units(step), step=step)
    return tmp_path


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def test_a_checkpoint_is_a_manifest_and_a_safetensors_file_for_each_unit(run: Path) -> None:
    folder = run / "checkpoints" / "step-000060"
    expected = units(60)
    files = [f"{unit}.safetensors" for unit in expected]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*files, "manifest.json"])
    for unit, tensors in expected.items():
        loaded = load_file(folder / f"{unit}.safetensors")
        assert all(bool((loaded[name] == tensor).all()) for name, tensor in tensors.items())


def test_what_the_manifest_says_comes_back(run: Path) -> None:
    found = read_checkpoint(run, latest(run))
    assert replace(found.manifest, files=()) == FACTS
    assert found.units == tuple(sorted(units()))


def test_a_unit_is_read_in_pieces_for_a_stage(run: Path) -> None:
    found = read_checkpoint(run, 60)
    data = b"".join(found.chunks("layer-00002"))
    assert len(data) == found.size_bytes("layer-00002")
    assert load(data)["#step"].item() == 60


def test_the_last_step_is_the_latest(run: Path) -> None:
    assert steps(run) == (40, 60)
    assert latest(run) == 60


def test_a_folder_without_checkpoints_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint: give the folder of a training"):
        latest(tmp_path)


def test_a_step_that_is_not_there_names_those_that_are(run: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint of step 7: choose one of 40, 60"):
        read_checkpoint(run, 7)


def test_progress_ends_at_the_sum_of_the_files(run: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = read_checkpoint(run, 60, lambda done, total: seen.append((done, total)))
    total = sum(file.size_bytes for file in found.manifest.files)
    assert seen[-1] == (total, total)


# ------------------------------------------------------------------------------------- damage


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = {"a bit": flip, "the end": cut, "all of it": Path.unlink}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("name", ["layer-00001.safetensors", "manifest.json"])
def test_a_damaged_file_is_named_and_so_is_the_step_before(
    run: Path, name: str, damage: Any
) -> None:
    path = run / "checkpoints" / "step-000060" / name
    if name == "manifest.json" and damage is flip:
        damage = cut
    damage(path)
    with pytest.raises(CheckpointError, match=rf"{name} .*: restore it, or go back to step 40\."):
        read_checkpoint(run, 60)


def test_nothing_stands_before_the_first(run: Path) -> None:
    cut(run / "checkpoints" / "step-000040" / "head.safetensors")
    with pytest.raises(CheckpointError, match=r"head\.safetensors .*or there is none before it\."):
        read_checkpoint(run, 40)


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "a later schema": ({"schema": 2}, "later version"),
    "no schema": ({"schema": "1"}, "schema is not of type int"),
    "another step": ({"step": 40}, "is of step 40"),
    "a negative step": ({"step": -1}, "step -1"),
    "too many layers": ({"num_layers": 1 << 20}, "num_layers 1048576"),
    "fewer layers": ({"num_layers": 2}, "unit 'layer-00002' of 2 layers"),
    "an endless scale": ({"loss_scale": {"scale": 1e300, "good_steps": 0}}, "loss scale"),
    "no number": ({"optimizer": {"eps": float("nan")}}, "eps nan"),
    "no adapters": ({"adapters": None}, "mode lora without adapters"),
    "another mode": ({"mode": "full"}, "mode full with adapters"),
    "integers": ({"dtype": "int64"}, "dtype int64"),
    "a cursor before the data": ({"cursor": {"epoch": 0, "position": -1}}, "position -1"),
    "a path": (
        {"files": [{"unit": "../../x", "sha256": "ab" * 32, "size_bytes": 9}]}, "unit '../../x'",
    ),
    "no hash": ({"files": [{"unit": "head", "sha256": "/", "size_bytes": 9}]}, "size or hash"),
    "no size": ({"files": [{"unit": "head", "sha256": "a" * 64, "size_bytes": 0}]}, "size or hash"),
    "one unit twice": (
        {"files": [{"unit": "head", "sha256": "a" * 64, "size_bytes": 9}] * 2}, "one unit twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lie", "sentence"), LIES.values(), ids=LIES.keys())
def test_a_manifest_is_not_believed_before_it_is_checked(
    run: Path, lie: dict[str, Any], sentence: str
) -> None:
    path = run / "checkpoints" / "step-000060" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **lie}))
    with pytest.raises(CheckpointError, match=sentence):
        read_checkpoint(run, 60)


def test_a_link_out_of_the_folder_is_not_followed(run: Path, tmp_path: Path) -> None:
    path = run / "checkpoints" / "step-000060" / "head.safetensors"
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match=r"head\.safetensors is damaged"):
        read_checkpoint(run, 60)


def test_one_config_has_one_hash_however_it_is_ordered() -> None:
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
    assert config_hash({"a": 1}) != config_hash({"a": 2})


# ------------------------------------------------------------------------------------ tidying


@pytest.mark.parametrize(
    ("keep", "left"),
    [(3, (0, 60, 80, 100)), (1, (0, 100)), (0, (0, 100)), (9, (0, 20, 40, 60, 80, 100))],
)
def test_the_last_ones_and_the_first_are_kept(
    tmp_path: Path, keep: int, left: tuple[int, ...]
) -> None:
    for step in range(0, 101, 20):
        write_checkpoint(tmp_path, units(num_values=1), step=step)
    prune(tmp_path, keep=keep)
    assert steps(tmp_path) == left
    assert len(names(tmp_path)) == len(left)


def test_the_only_one_is_kept(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, units(num_values=1), step=20)
    prune(tmp_path, keep=0)
    assert steps(tmp_path) == (20,)


def test_what_was_left_half_done_is_removed_and_nothing_else(run: Path) -> None:
    for name in ("step-000080.partial", "step-000060.replaced", "notes.partial"):
        (run / "checkpoints" / name).mkdir()
    (run / "checkpoints" / "step-000080.partial" / "head.safetensors").touch()
    clear_leftovers(run)
    assert names(run) == ["notes.partial", "step-000040", "step-000060"]


def test_one_that_was_about_to_be_replaced_is_put_back(run: Path) -> None:
    folder = run / "checkpoints"
    (folder / "step-000060").rename(folder / "step-000060.replaced")
    clear_leftovers(run)
    assert read_checkpoint(run, 60).manifest.step == 60


def test_a_run_that_has_not_begun_has_nothing_to_tidy(tmp_path: Path) -> None:
    clear_leftovers(tmp_path)
    prune(tmp_path)
    assert not list(tmp_path.iterdir())
