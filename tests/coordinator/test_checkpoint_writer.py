"""Whatever happens while a checkpoint is written, the one before it is whole, or it is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from written_checkpoints import FACTS, units, write_checkpoint

from edgepipe.coordinator.checkpoint_writer import CheckpointWriter
from edgepipe.coordinator.checkpoints import (
    clear_leftovers,
    latest,
    prune,
    read_checkpoint,
    steps,
)
from edgepipe.engine.state_file import chunks_of
from edgepipe.errors import CheckpointError, WireError


def begin(run: Path, **changes: Any) -> CheckpointWriter:
    return CheckpointWriter(run, replace(FACTS, **changes), units().keys())


def names(run: Path) -> list[str]:
    return sorted(entry.name for entry in (run / "checkpoints").iterdir())


def test_stages_write_at_the_same_time(tmp_path: Path) -> None:
    state = units(num_values=600_000)

    def send(writer: CheckpointWriter, unit: str) -> None:
        for piece in chunks_of(state[unit]):
            writer.append(unit, piece)
        writer.finish(unit)

    with begin(tmp_path) as writer, ThreadPoolExecutor(4) as stages:
        for sent in [stages.submit(send, writer, unit) for unit in state]:
            sent.result(timeout=60)
        writer.commit()
    found = read_checkpoint(tmp_path, 60)
    assert b"".join(found.chunks("head")) == b"".join(chunks_of(state["head"]))


def test_it_has_no_name_before_it_is_whole(tmp_path: Path) -> None:
    with begin(tmp_path) as writer:
        writer.append("head", b"12345678")
        assert names(tmp_path) == ["step-000060.partial"]
        assert steps(tmp_path) == ()


def test_a_unit_that_did_not_come_keeps_it_from_its_name(tmp_path: Path) -> None:
    with begin(tmp_path) as writer:
        for unit in units().keys() - {"layer-00002"}:
            writer.append(unit, b"12345678")
            writer.finish(unit)
        assert writer.missing == {"layer-00002"}
        with pytest.raises(WireError, match="state of layer-00002 did not arrive"):
            writer.commit()
    assert names(tmp_path) == []


@pytest.mark.parametrize("unit", ["layer-00009", "../head", ""])
def test_a_unit_that_no_stage_has_is_refused(tmp_path: Path, unit: str) -> None:
    with begin(tmp_path) as writer, pytest.raises(WireError, match="was not asked for"):
        writer.append(unit, b"1")


@pytest.mark.parametrize("unit", ["layer-00004", "layer-1", "../head", "head.safetensors"])
def test_a_unit_that_no_model_has_is_refused(tmp_path: Path, unit: str) -> None:
    with pytest.raises(WireError, match="which no model has: run one version"):
        CheckpointWriter(tmp_path, FACTS, ["head", unit])


def test_a_unit_that_is_whole_takes_no_more(tmp_path: Path) -> None:
    with begin(tmp_path) as writer:
        writer.append("head", b"12345678")
        writer.finish("head")
        with pytest.raises(WireError, match="'head' was not asked for"):
            writer.append("head", b"1")


def test_a_unit_that_never_ends_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepipe.coordinator.checkpoint_writer.MAX_UNIT_BYTES", 100)
    with begin(tmp_path) as writer:
        writer.append("head", bytes(100))
        with pytest.raises(WireError, match="larger than any may be"):
            writer.append("head", b"1")


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, units(), step=40)
    with suppress(KeyboardInterrupt), begin(tmp_path) as writer:
        writer.append("head", b"12345678")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["step-000040"]


def test_what_an_earlier_run_left_is_not_in_it(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / "step-000060.partial"
    left.mkdir(parents=True)
    (left / "rubbish").touch()
    folder = write_checkpoint(tmp_path, units())
    assert not (folder / "rubbish").exists()


def test_another_of_the_same_step_takes_its_place(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, units(1))
    write_checkpoint(tmp_path, units(2), seed=5)
    assert read_checkpoint(tmp_path, 60).manifest.seed == 5
    assert names(tmp_path) == ["step-000060"]


# ------------------------------------------------------------------------- crashes and full disks


class Crash(BaseException):
    """The power went."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From the n-th change of the disk on, there are no more."""
    left = sys.maxsize

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def attempt(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Crash
            return change(*args, **options)

        return attempt

    for name in ("mkdir", "rename", "unlink", "rmdir", "fsync"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))

    def arm(changes: int) -> None:
        nonlocal left
        left = changes

    return arm


def test_a_crash_between_any_two_changes_of_the_disk_leaves_a_whole_checkpoint(
    tmp_path: Path, crash_at: Callable[[int], None]
) -> None:
    """Step 60 is written over another step 60, and steps 20 and 40 are pruned away."""
    before, after = (
        {unit: state[unit] for unit in ("layer-00001", "head")}
        for state in (units(1, num_values=1), units(2, num_values=1))
    )
    for step in (20, 40, 60):
        write_checkpoint(tmp_path / "before", before, step=step)
    for changes in range(200):
        run = tmp_path / str(changes)
        crash_at(sys.maxsize)
        shutil.copytree(tmp_path / "before", run)
        crash_at(changes)
        try:
            write_checkpoint(run, after)
            prune(run, keep=1)
        except Crash:
            done = False
        else:
            done = True
        crash_at(sys.maxsize)
        clear_leftovers(run)
        found = [read_checkpoint(run, step) for step in steps(run)]
        assert latest(run) == 60
        assert {entry.suffix for entry in (run / "checkpoints").iterdir()} == {""}
        if done:
            assert [each.manifest.step for each in found] == [60]
            break
    else:
        pytest.fail("it never ended")
    assert changes > 20


CHILD = """
import signal
import sys
from pathlib import Path
from edgepipe.coordinator.checkpoint_writer import CheckpointWriter
from edgepipe.coordinator.manifest import Manifest
from edgepipe.core.frame import DType
from edgepipe.core.shuffle import Cursor
from edgepipe.core.training import AdamW
from edgepipe.core.work import TrainMode

signal.signal(signal.SIGINT, signal.default_int_handler)  # deaf, if its parent was started with &
facts = Manifest(
    step=60, mode=TrainMode.FULL, model="m", num_layers=4, config_sha256="ab" * 32,
    dtype=DType.FLOAT32, seed=0, cursor=Cursor(epoch=0, position=0), optimizer=AdamW(),
)
with CheckpointWriter(Path(sys.argv[1]), facts, ["head", "layer-00001"]) as writer:
    writer.append("head", bytes(1 << 20))
    writer.finish("head")
    while True:
        writer.append("layer-00001", bytes(1 << 12))
        print("going", flush=True)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_process_leaves_the_last_checkpoint(tmp_path: Path, blow: signal.Signals) -> None:
    write_checkpoint(tmp_path, units(), step=40)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"going\n"
        child.send_signal(blow)
    assert names(tmp_path) == [
        "step-000040",
        *(["step-000060.partial"] if blow is signal.SIGKILL else []),
    ]
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["step-000040"]
    assert read_checkpoint(tmp_path, latest(tmp_path)).manifest.step == 40


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """256 KiB of memory, mounted as a disk."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if sys.platform != "linux" or os.geteuid() or mount is None or umount is None:
        pytest.skip("only root mounts a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=256k", "none", folder], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run([umount, folder], check=True)


def test_a_full_disk_is_told_and_the_last_checkpoint_stays(small_disk: Path) -> None:
    write_checkpoint(small_disk, units(num_values=1), step=40)
    with pytest.raises(CheckpointError, match=r"cannot be written .*No space left .*: make room"):
        write_checkpoint(small_disk, units(num_values=20_000))
    assert names(small_disk) == ["step-000040"]
    assert read_checkpoint(small_disk, latest(small_disk)).manifest.step == 40
