"""Random numbers that depend on nothing but the run's seed, the step, the microbatch and the layer.

What a layer draws comes from a generator seeded for it alone, however the model is cut, and whether
it is the layer's first run or a later one in its backward. What stands outside the layers draws
from one more such generator.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_GENERATORS = threading.RLock()
"""Torch's generators belong to the process: one stage of it draws at a time."""


def seed_of(*parts: int | str) -> int:
    """A seed that any of the parts changes."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Draw from generators that are seeded so, and leave them as they were."""
    forked = [device.index or 0] if device.type == "cuda" else []
    with _GENERATORS, torch.random.fork_rng(forked):
        torch.manual_seed(seed)
        yield


def draws(model: Any) -> bool:
    """Whether a model draws anything while it is trained."""
    return any(_draws(module) for module in model.modules())


def _draws(module: Any) -> bool:
    if isinstance(module, torch.nn.Dropout):
        return module.p > 0
    rates = [value for name, value in vars(module).items() if "drop" in name or "jitter" in name]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)
