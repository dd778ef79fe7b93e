"""Control groups as the kernel shows them, copied into a folder."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from edgepipe.agent.cgroup import MemoryLimit, cpu_quota, memory_limits
from edgepipe.agent.memory import host_memory, num_cores

GIB = 2**30


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    group = "sys/fs/cgroup/user.slice/agent.scope"
    return write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/agent.scope",
            "sys/fs/cgroup/user.slice/memory.max": str(2 * GIB),
            "sys/fs/cgroup/user.slice/memory.current": str(GIB),
            "sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
            f"{group}/memory.max": "max",
            f"{group}/memory.stat": f"anon 5\ninactive_file {GIB // 2}",
            f"{group}/cpu.max": "max 100000",
        },
    )


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    """Docker without a group namespace: the path is the host's, the limits are at the mount."""
    return write(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/docker/ab12\n4:memory:/docker/ab12\n0::/x",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/memory.usage_in_bytes": str(2 * GIB),
            "sys/fs/cgroup/memory/memory.stat": f"total_inactive_file {GIB}",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )


def test_a_parents_limit_holds_too(v2: Path) -> None:
    assert memory_limits(v2) == (MemoryLimit(limit_bytes=2 * GIB, used_bytes=GIB),)
    assert cpu_quota(v2) == 1.5


def test_file_cache_that_can_be_dropped_is_not_used(v1: Path) -> None:
    assert memory_limits(v1) == (MemoryLimit(limit_bytes=3 * GIB, used_bytes=GIB),)
    assert cpu_quota(v1) == 0.5


def test_v1_says_no_limit_by_a_huge_number(v1: Path) -> None:
    write(
        v1,
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        },
    )
    assert memory_limits(v1) == ()
    assert cpu_quota(v1) is None


def test_a_machine_without_groups_has_no_limits(tmp_path: Path) -> None:
    assert memory_limits(tmp_path) == ()
    assert cpu_quota(tmp_path) is None
    assert host_memory(tmp_path).total_bytes == psutil.virtual_memory().total


def test_a_container_has_the_memory_of_its_limit(v2: Path) -> None:
    memory = host_memory(v2)
    assert memory.total_bytes == 2 * GIB
    assert 0 < memory.free_bytes <= GIB


@pytest.mark.parametrize("quota", ["50000 100000", "199999 100000"])
def test_cores_are_the_whole_ones_of_the_quota_and_at_least_one(v2: Path, quota: str) -> None:
    write(v2, {"sys/fs/cgroup/user.slice/cpu.max": quota})
    assert num_cores(v2) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_cores_respect_the_affinity(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert num_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_this_machine_has_memory_and_cores() -> None:
    memory = host_memory()
    assert 0 < memory.free_bytes < memory.total_bytes
    assert num_cores() >= 1
