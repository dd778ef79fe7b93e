"""An engine with given times and real bytes: it computes nothing and takes as long as it is told.

For measuring what the runtime itself costs, and for planning experiments. The time is slept, not
spun, so that many emulated devices share one core.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from edgepipe.core.frame import Span
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.errors import ModelError

MAX_FORWARD_S = 60.0
OVERSLEPT_S = 0.5e-3
MAX_SIZE = 1 << 24
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class EmulatedEngine:
    """Options: `forward_s` per call, `hidden_size`, `vocab_size`. Greedy sampling counts up."""

    def __init__(self) -> None:
        self._spec: StageSpec | None = None
        self._hidden = torch.empty(0, 0)

    def load(self, spec: StageSpec, progress: Progress) -> Loaded:
        """Remember the sizes; there are no weights. Raises ModelError for options out of bounds."""
        _check(spec.options)
        self._spec = spec
        self._hidden = torch.empty(0, 0)
        progress(0, 0)
        return Loaded(weight_bytes=0, kv_bytes=0)

    def forward(
        self, spans: Sequence[Span], inputs: torch.Tensor, *, all_logits: bool = False
    ) -> torch.Tensor:
        """Zeros of the right shape after `forward_s`; logits that favour the position's number."""
        assert self._spec is not None
        take(self._spec.options["forward_s"])
        if not self._spec.head:
            return self._zeros(inputs.shape[0])
        positions = [
            position
            for span in spans
            for position in range(span.start if all_logits else span.end - 1, span.end)
        ]
        vocab_size = self._spec.options["vocab_size"]
        logits = np.zeros((len(positions), vocab_size), np.float32)
        for row, position in enumerate(positions):
            logits[row, position % vocab_size] = 1.0
        return torch.from_numpy(logits)

    def _zeros(self, num_rows: int) -> torch.Tensor:
        """Kept from call to call, since nobody writes into them: emulating costs no time."""
        assert self._spec is not None
        if self._hidden.shape[0] != num_rows:
            shape = (num_rows, self._spec.options["hidden_size"])
            self._hidden = torch.zeros(shape, dtype=DTYPES[self._spec.dtype])
        return self._hidden

    def export_state(self, slot: int) -> tuple[torch.Tensor, torch.Tensor]:
        """An empty cache."""
        del slot
        return torch.empty(0, 0, 0, 0), torch.empty(0, 0, 0, 0)

    def import_state(self, slot: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Nothing is cached."""
        del slot, keys, values

    def unload(self) -> None:
        """Nothing is held."""
        self._spec = None


def take(seconds: float) -> None:
    """Take so long: asleep, but for the last moment, since a sleep ends late."""
    end_s = time.perf_counter() + seconds
    if seconds > OVERSLEPT_S:
        time.sleep(seconds - OVERSLEPT_S)
    while time.perf_counter() < end_s:
        pass


def _check(options: Mapping[str, Any]) -> None:
    forward_s = options.get("forward_s")
    if not isinstance(forward_s, int | float) or not 0 <= forward_s <= MAX_FORWARD_S:
        raise ModelError(
            f"an emulated stage takes 0 to {MAX_FORWARD_S:.0f} s a frame, not {forward_s}"
        )
    for name in ("hidden_size", "vocab_size"):
        check_size(options, name)


def check_size(options: Mapping[str, Any], name: str) -> None:
    """Raise ModelError unless the option is a size."""
    size = options.get(name)
    if not isinstance(size, int) or not 0 < size <= MAX_SIZE:
        raise ModelError(f"an emulated stage has a {name} of 1 to {MAX_SIZE}, not {size}")
