"""A run that is interrupted keeps its last checkpoint, frees its agents, and goes on from there."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from cluster.conftest import Cluster, Command, Edgepipe, start_agents
from cluster.in_this_process import Here, commands
from cluster.test_lifecycle import (
    TOLD_WITHIN_S,
    TTL_S,
    finished,
    leases,
    profiles,
    wait_until,
    worker_of,
)
from cluster.training_runs import Course, Run, course
from equivalence.tiny_models import CONFIGS, random_model

from edgepipe.coordinator.checkpoints import steps

EVERY = 3
"""Steps between checkpoints."""
SETTINGS = ("steps=100000", f"run.checkpoint_every={EVERY}", "run.keep_checkpoints=3")
ENDLESS = tuple(word for setting in SETTINGS for word in ("--set", setting))
SMALL_BYTES = 64 << 10
"""Room for a line more of metrics, but not for a layer."""

here = pytest.fixture(commands)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course(tmp_path_factory.mktemp("course"), random_model(CONFIGS["llama, tied"]))


@pytest.fixture(scope="module")
def pair(edgepipe: Edgepipe, session_home: Path) -> Iterator[Cluster]:
    """Two agents whose leases are short."""
    settings = session_home / "short-leases-too.toml"
    settings.write_text(f"lease_ttl_s = {TTL_S}\n")
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["gil", "hal"], "--config", settings)


@contextmanager
def long_training(pair: Cluster, tiny: Course, run: Run) -> Iterator[subprocess.Popen[str]]:
    """A run that has written two checkpoints, and would go on for a while."""
    words = ("train", tiny.full, "--set", f"output={run.path}", *ENDLESS, "--stages", 2)
    process = pair.edgepipe.popen(*words, *pair.flags)
    try:
        wait_until(lambda: process.poll() is not None or max(steps(run.path), default=0) > EVERY)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def expect_failed(done: Command, sentence: str) -> None:
    assert done.code == 1, done
    assert "Traceback" not in done.err
    assert done.err.count("edgepipe: ") == 1
    assert sentence in done.sentence


def expect_goes_on(here: Here, pair: Cluster, tiny: Course, run: Run) -> None:
    """The last checkpoint is whole, nothing is lost or done twice, and two more steps are done."""
    last = run.checkpoint().manifest.step
    assert last >= EVERY * 2
    words = ("train", tiny.full, "--resume", run.path, *ENDLESS, "--set", f"steps={last + 2}")
    done = here(*words, "--json", *pair.flags)
    assert done.code == 0, done.err
    assert done.json["step"] == last + 2
    assert [line["step"] for line in run.metrics] == list(range(1, last + 3))
    assert run.checkpoint().manifest.step == last + 2
    left = {each.name for each in (run.path / "checkpoints").iterdir()}
    assert left == {f"step-{step:06d}" for step in steps(run.path)}
    assert leases(pair) == {}


def test_ctrl_c_frees_the_agents_at_once(
    here: Here, pair: Cluster, tiny: Course, tmp_path: Path
) -> None:
    run = Run(path=tmp_path / "run")
    with long_training(pair, tiny, run) as process:
        assert set(leases(pair)) == {"gil", "hal"}
        process.send_signal(signal.SIGINT)
        done = finished(process)
    assert done.code == 130, done
    assert "Traceback" not in done.err
    last = run.metrics[-1]["step"]
    assert done.sentence == (
        f"stopped after step {last}: go on from the last checkpoint by --resume {run.path}"
    )
    assert leases(pair) == {}
    expect_goes_on(here, pair, tiny, run)


@pytest.mark.slow
def test_a_killed_command(here: Here, pair: Cluster, tiny: Course, tmp_path: Path) -> None:
    run = Run(path=tmp_path / "run")
    with long_training(pair, tiny, run) as process:
        process.kill()
        process.wait()
        wait_until(lambda: leases(pair) == {}, within_s=TTL_S + TOLD_WITHIN_S)
    expect_goes_on(here, pair, tiny, run)


def test_a_killed_worker(here: Here, pair: Cluster, tiny: Course, tmp_path: Path) -> None:
    run = Run(path=tmp_path / "run")
    with long_training(pair, tiny, run) as process:
        worker_of(pair.agents[1]).kill()
        done = finished(process)
    expect_failed(done, "hal (cpu): its process died or ")
    assert leases(pair) == {}
    wait_until(lambda: all(node.devices for node in profiles(pair).values()))
    expect_goes_on(here, pair, tiny, run)


def test_a_full_disk_at_a_checkpoint(
    here: Here, pair: Cluster, tiny: Course, tmp_path: Path
) -> None:
    """As the system says of a file that may not grow: the command is told of that by the write."""
    run = Run(path=tmp_path / "run")
    with long_training(pair, tiny, run) as process:
        limits = (SMALL_BYTES, SMALL_BYTES)
        psutil.Process(process.pid).rlimit(resource.RLIMIT_FSIZE, limits)
        done = finished(process)
    expect_failed(done, "make room there, then go on with --resume")
    assert leases(pair) == {}
    expect_goes_on(here, pair, tiny, run)
