"""Calls under a CPU quota, in a real control group where root can make one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgepipe.agent.throttling import throttling_quota

CPU_GROUPS = Path("/sys/fs/cgroup/cpu")
CALLS = """
import json, sys, time
import torch
from edgepipe.agent.profiling import clock

torch.set_num_threads(1)
timed = clock(torch.device("cpu"), 1.0)

def call():
    end_s = time.process_time() + 0.002
    while time.process_time() < end_s:
        pass

begin_s = time.perf_counter()
seconds = [timed(call) for _ in range(100)]
json.dump({"calls_s": seconds, "elapsed_s": time.perf_counter() - begin_s}, sys.stdout)
"""


def write(root: Path, quota_us: int) -> Path:
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/\n")
    (group / "cpu.max").write_text(f"{quota_us} 100000\n")
    return root


def test_a_quota_throttles_more_threads_than_it_has_cpus(tmp_path: Path) -> None:
    root = write(tmp_path, 150_000)
    assert throttling_quota(1, root) is None
    assert throttling_quota(2, root) == 1.5


def test_without_a_quota_nothing_is_throttled(tmp_path: Path) -> None:
    assert throttling_quota(1024, tmp_path) is None


@pytest.fixture
def quarter() -> Iterator[Path]:
    """A control group of a quarter of a CPU."""
    group = CPU_GROUPS / f"edgepipe-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cpu.cfs_quota_us").write_text("25000")
    except OSError:
        pytest.skip("needs root and control groups of version 1")
    yield group
    group.rmdir()


def test_each_short_call_takes_its_share_of_the_time_that_all_take(quarter: Path) -> None:
    """By the wall most of these would take 2 ms, and a few 80."""
    found = subprocess.run(
        [
            "sh",
            "-c",
            f'echo $$ > {quarter}/cgroup.procs && exec "$0" -c "$1"',
            sys.executable,
            CALLS,
        ],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    measured = json.loads(found.stdout)
    assert min(measured["calls_s"]) > 0.007
    assert sum(measured["calls_s"]) < 1.3 * measured["elapsed_s"]
