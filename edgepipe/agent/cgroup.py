"""What a container may use: memory and CPU limits of Linux control groups, v1 and v2.

    v2   /sys/fs/cgroup/<path>/{memory.max, memory.current, memory.stat, cpu.max}
    v1   /sys/fs/cgroup/memory/<path>/{memory.limit_in_bytes, memory.usage_in_bytes, memory.stat}
         /sys/fs/cgroup/cpu/<path>/{cpu.cfs_quota_us, cpu.cfs_period_us}

A limit of any parent holds too. Inside a container <path> may name a folder of the host that is
not mounted; its limits then stand at the root of the mount.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLimit:
    """One group's limit, and what it uses now (reclaimable file cache left out), in bytes."""

    limit_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        """What the group may still take."""
        return self.limit_bytes - self.used_bytes


def memory_limits(root: Path = _ROOT) -> tuple[MemoryLimit, ...]:
    """The limits that this process is under, none where there are none (or no Linux)."""
    v2 = (_memory_v2(folder) for folder in _folders(root, ""))
    v1 = (_memory_v1(folder) for folder in _folders(root, "memory"))
    return tuple(limit for limit in (*v2, *v1) if limit is not None)


def cpu_quota(root: Path = _ROOT) -> float | None:
    """How many CPUs' worth of time this process may use, None for no limit."""
    v2 = (_cpu_v2(folder) for folder in _folders(root, ""))
    v1 = (_cpu_v1(folder) for folder in _folders(root, "cpu"))
    return min((quota for quota in (*v2, *v1) if quota is not None), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """This process's group under a v1 controller ("" is v2), and all of its parents."""
    mount = root / "sys/fs/cgroup" / controller
    path = _path(root, controller)
    if path is None:
        return
    for part in (path, *path.parents):
        folder = mount / part.relative_to("/")
        if folder.is_dir():
            yield folder


def _path(root: Path, controller: str) -> PurePosixPath | None:
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller in controllers.split(",") and path.startswith("/"):
            return PurePosixPath(path)
    return None


def _memory_v2(folder: Path) -> MemoryLimit | None:
    limit = _number(folder / "memory.max")
    if limit is None:
        return None
    used = (_number(folder / "memory.current") or 0) - _stat(folder, "inactive_file")
    return MemoryLimit(limit_bytes=limit, used_bytes=max(0, used))


def _memory_v1(folder: Path) -> MemoryLimit | None:
    """No limit reads as a number near 2**63."""
    limit = _number(folder / "memory.limit_in_bytes")
    if limit is None or limit >= 1 << 62:
        return None
    used = (_number(folder / "memory.usage_in_bytes") or 0) - _stat(folder, "total_inactive_file")
    return MemoryLimit(limit_bytes=limit, used_bytes=max(0, used))


def _cpu_v2(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    is_limited = quota.isdecimal() and period.isdecimal()
    return int(quota) / int(period) if is_limited else None


def _cpu_v1(folder: Path) -> float | None:
    quota = _number(folder / "cpu.cfs_quota_us")
    period = _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period else None


def _stat(folder: Path, key: str) -> int:
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.isdecimal():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """A whole number, None where the file is missing or says `max` or -1."""
    text = _read(path).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
