"""Computing in a smaller type than the weights are held in.

    forward 0   forward 1   …   apply
    ├─ casts of the weights ────┤ made once, shared by all microbatches in flight

Torch's autocast would make them anew in every forward, and each would live as long as its graph.
"""

from __future__ import annotations

from typing import Any

import torch


class Precision:
    """Autocast to `dtype` where it is smaller than float32, for one thread."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._type = device.type
        self._dtype = dtype
        self._casts = dtype.itemsize < torch.float32.itemsize
        self._step: Any = None

    def computing(self, *, training: bool) -> Any:
        """A context to compute in. What is not trained leaves no casts behind."""
        if self._casts and training and self._step is None:
            self._step = torch.autocast(self._type, dtype=self._dtype, enabled=False)
            self._step.__enter__()
        return torch.autocast(
            self._type, dtype=self._dtype, enabled=self._casts, cache_enabled=training
        )

    def forget(self) -> None:
        """Weights have changed, or will: drop their casts."""
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
            torch.clear_autocast_cache()
