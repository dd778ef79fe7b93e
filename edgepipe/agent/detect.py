"""`python -m edgepipe.agent.detect`: the accelerators that torch sees, as JSON on the last line.

It runs in a process of its own and ends: importing torch takes seconds and hundreds of megabytes,
and asking a GPU for its memory opens a context on it. The supervisor wants neither.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from typing import Any

import torch


def detect() -> list[dict[str, Any]]:
    """Every CUDA (or ROCm) device, and MPS. Memory in bytes."""
    return [*_cuda_devices(), *_mps_devices()]


def _cuda_devices() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    return [_cuda_device(index) for index in range(torch.cuda.device_count())]


def _cuda_device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    return {
        "id": f"cuda:{index}",
        "kind": "cuda",
        "name": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "is_unified": bool(properties.is_integrated),
        "memory_bytes": total_bytes,
        "memory_free_bytes": free_bytes,
    }


def _mps_devices() -> list[dict[str, Any]]:
    if not torch.backends.mps.is_available():
        return []
    limit_bytes = torch.mps.recommended_max_memory()
    return [
        {
            "id": "mps",
            "kind": "mps",
            "name": _apple_chip(),
            "uuid": "",
            "is_unified": True,
            "memory_bytes": limit_bytes,
            "memory_free_bytes": limit_bytes - torch.mps.driver_allocated_memory(),
        }
    ]


def _apple_chip() -> str:
    command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    return result.stdout.strip() or platform.machine()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(detect()) + "\n")
