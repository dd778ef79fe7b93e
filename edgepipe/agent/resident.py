"""How much memory this process holds, and held at most."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from edgepipe.core.training_fit import MAPPED_BYTES

TRAINING_MAP_BYTES = MAPPED_BYTES
"""From 256 KiB on a step takes 40 % longer and holds what is alive alone; from here on 5 %, and of
large microbatches little more (docs/LOG.md)."""
USUAL_MAP_BYTES = 32 << 20
"""What glibc comes to by itself, in a process that frees large tensors."""
TRIM_BYTES = 2 * USUAL_MAP_BYTES
"""What glibc keeps at the heap's end, as much as it comes to by itself. Told what to map it would
keep 128 KiB, and fault in each microbatch's activations anew: 5 MB take it 3 ms."""
_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1


def resident_bytes() -> int:
    """Resident set size of this process now."""
    return int(psutil.Process().memory_info().rss)


def reset_peak() -> None:
    """Let the peak begin anew from what is held now, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def give_back_freed_memory() -> None:
    """Return to the system what was freed: glibc keeps tensors of up to 32 MiB for itself."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def map_from(threshold_bytes: int) -> None:
    """Have glibc map allocations from this size on, each for itself: freed, they are gone.

    Activations of many sizes and lives leave holes in the heap that it cannot use again, more with
    every microbatch in flight. Elsewhere nothing changes.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, threshold_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)


def empty_cache(device: torch.device) -> None:
    """Give back what a GPU's allocator keeps: others on the device are told what is free."""
    match device.type:
        case "cuda":
            torch.cuda.empty_cache()
        case "mps":
            torch.mps.empty_cache()
        case _:
            pass


def peak_resident_bytes() -> int:
    """The largest resident set size since `reset_peak`, elsewhere of the process's life."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else int(peak) << 10
