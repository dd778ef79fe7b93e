"""Which devices this machine offers, and how much of them."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pynvml

from edgepipe import __version__
from edgepipe.agent.engines_here import check_builds, engines_of, is_installed
from edgepipe.agent.memory import HOST_POOL, MemoryNow, host_memory, num_cores
from edgepipe.agent.settings import AgentSettings
from edgepipe.agent.throttling import throttling_quota
from edgepipe.core.profile import DeviceId, DeviceKind, DeviceProfile
from edgepipe.core.size import human_size
from edgepipe.errors import NodeError, UsageError

CPU = DeviceId("cpu")
DETECT_WITHIN_S = 120.0
_MAX_DEVICES = 64

SHARE_OF_OWN_MEMORY = 0.9
"""Of a GPU's free memory: the rest is for the allocator's rounding, library workspaces and a
desktop that grows."""
SHARE_OF_HOST_MEMORY = 0.8
"""Of what is free in the machine's own memory, where taking it all makes the machine swap and
everyone on it suffer."""
_GPU_WORKER_THREADS = 4
_OPTIONAL = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-genai", "torchao", "bitsandbytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that is here. `is_unified`: it lives in the machine's own memory."""

    id: DeviceId
    kind: DeviceKind
    name: str
    memory: MemoryNow
    is_unified: bool
    uuid: str = ""

    @property
    def pool(self) -> str:
        """The memory that it shares with other devices of the machine."""
        return HOST_POOL if self.is_unified else self.id


async def find_devices(settings: AgentSettings) -> tuple[Device, ...]:
    """The devices that `--device` names; without it all GPUs, else the CPU.

    Raises:
        UsageError: a device that is not here.
        NodeError: torch could not be asked, or what is installed does not go together.
    """
    check_builds()
    if set(settings.device) == {CPU}:
        return (cpu_device(),)
    return choose((*await detect_accelerators(), cpu_device()), settings.device)


def choose(here: Sequence[Device], wanted: Sequence[str]) -> tuple[Device, ...]:
    """The wanted ones of those that are here, in the order wanted.

    Raises:
        UsageError: one is not here.
    """
    gpus = tuple(device for device in here if device.kind is not DeviceKind.CPU)
    if not wanted:
        return gpus or tuple(here)
    by_id = {device.id: device for device in here}
    for name in wanted:
        if name not in by_id:
            raise UsageError(f"There is no device '{name[:40]}' here, only {', '.join(by_id)}.")
    return tuple(by_id[DeviceId(name)] for name in dict.fromkeys(wanted))


def cpu_device() -> Device:
    """The CPU and its memory, without asking torch."""
    memory = host_memory()
    return Device(id=CPU, kind=DeviceKind.CPU, name=_share_name(), memory=memory, is_unified=True)


def _share_name() -> str:
    """The CPU, and how much of it a container may use: figures of another share are not its own."""
    quota = throttling_quota(os.cpu_count() or 1)
    return _cpu_name() if quota is None else f"{_cpu_name()} ({quota:g} CPUs)"


def _cpu_name() -> str:
    for file, pattern in (
        (Path("/proc/cpuinfo"), r"^model name\s*:\s*(.+)$"),
        (Path("/proc/device-tree/model"), r"([^\0]+)"),
    ):
        with suppress(OSError):
            match = re.search(pattern, file.read_text(errors="replace"), re.MULTILINE)
            if match is not None:
                return match[1].strip()
    return platform.processor() or platform.machine()


async def detect_accelerators() -> tuple[Device, ...]:
    """The GPUs that torch sees, asked in a process that ends (see `edgepipe.agent.detect`).

    Raises:
        NodeError: torch could not be asked, or did not answer in time.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "edgepipe.agent.detect",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DETECT_WITHIN_S):
            output, errors = await process.communicate()
    except TimeoutError:
        raise NodeError(
            f"torch did not list its devices within {DETECT_WITHIN_S:.0f} s: "
            "use --device cpu, or look after the GPU driver."
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        last = errors.decode(errors="replace").strip().rpartition("\n")[2]
        raise NodeError(f"torch could not list its devices ({last[:200]}): use --device cpu.")
    return parse_detected(output)


def parse_detected(output: bytes) -> tuple[Device, ...]:
    """The devices that `edgepipe.agent.detect` printed on its last line."""
    listed = json.loads(output.strip().rpartition(b"\n")[2])
    return tuple(_parse_device(item) for item in listed[:_MAX_DEVICES])


def _parse_device(item: Mapping[str, Any]) -> Device:
    memory = MemoryNow(total_bytes=item["memory_bytes"], free_bytes=item["memory_free_bytes"])
    return Device(
        id=DeviceId(item["id"]),
        kind=DeviceKind(item["kind"]),
        name=item["name"],
        memory=memory,
        is_unified=item["is_unified"],
        uuid=item["uuid"],
    )


def memory_now(device: Device) -> MemoryNow:
    """The device's memory at this moment, where it can be had without a context on the device.

    An NVIDIA GPU is asked through its driver; a unified one has at most what the machine has free;
    of others (ROCm) the figure from the start stands.
    """
    if device.kind is DeviceKind.CPU:
        return host_memory()
    if device.is_unified:
        free_bytes = min(device.memory.total_bytes, host_memory().free_bytes)
        return MemoryNow(total_bytes=device.memory.total_bytes, free_bytes=free_bytes)
    return _nvidia_memory(device.uuid) or device.memory


def _nvidia_memory(uuid: str) -> MemoryNow | None:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return MemoryNow(total_bytes=memory.total, free_bytes=memory.free)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def offer(devices: Sequence[Device], settings: AgentSettings) -> tuple[DeviceProfile, ...]:
    """What is offered of each device; its worker's `port` and `baseline_bytes` are yet to come.

    Raises:
        UsageError: `--memory` names a device that is not offered, or more than one has.
    """
    limits = settings.memory_limits
    for name in limits.by_device:
        if name not in {device.id for device in devices}:
            there = ", ".join(device.id for device in devices)
            raise UsageError(f"--memory names '{name[:40]}', but this agent offers only {there}.")
    return tuple(_offer(device, settings, limits.of(device.id)) for device in devices)


def _offer(device: Device, settings: AgentSettings, limit_bytes: int | None) -> DeviceProfile:
    memory = memory_now(device)
    if limit_bytes is not None and limit_bytes > memory.total_bytes:
        raise UsageError(
            f"--memory gives {device.id} {human_size(limit_bytes)}, "
            f"but it has only {human_size(memory.total_bytes)}."
        )
    return DeviceProfile(
        id=device.id,
        kind=device.kind,
        name=device.name,
        pool=device.pool,
        memory_bytes=memory.total_bytes,
        memory_free_bytes=memory.free_bytes,
        memory_limit_bytes=limit_bytes or _default_limit_bytes(device, memory),
        baseline_bytes=0,
        port=0,
        num_threads=settings.threads or _default_threads(device),
        slowdown=settings.slowdown,
        engines=engines_of(device.kind),
        libraries=libraries(),
    )


@cache
def libraries() -> str:
    """The libraries that compute, with their versions, without importing them."""
    present = (name for name in _OPTIONAL if is_installed(name))
    versions = (f"{name} {version(name)}" for name in ("torch", "transformers", *present))
    return ", ".join((f"edgepipe {__version__}", *versions))


def _default_limit_bytes(device: Device, memory: MemoryNow) -> int:
    share = SHARE_OF_HOST_MEMORY if device.is_unified else SHARE_OF_OWN_MEMORY
    return int(share * memory.free_bytes)


def _default_threads(device: Device) -> int:
    """All cores compute for the CPU; a GPU's worker only loads, encodes and launches."""
    cores = num_cores()
    return cores if device.kind is DeviceKind.CPU else min(_GPU_WORKER_THREADS, cores)
