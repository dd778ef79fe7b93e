"""Weights that a coordinator reads slowly: a job that is starting, for as long as wanted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from edgepipe.coordinator.deployment import Deployment
from edgepipe.coordinator.layout import CHUNK_BYTES
from edgepipe.coordinator.progress import Silent

PAUSE_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowPart:
    """A part of zeros that takes `PAUSE_S` a chunk to read."""

    num_chunks: int
    sha256: str = field(init=False)
    tensors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", hashlib.sha256(bytes(self.size_bytes)).hexdigest())

    @property
    def size_bytes(self) -> int:
        return self.num_chunks * CHUNK_BYTES

    def open(self) -> SlowPart:
        return self

    def read(self, offset: int, length: int) -> bytes:
        time.sleep(PAUSE_S)
        return bytes(max(0, min(length, self.size_bytes - offset)))

    def close(self) -> None:
        pass


def with_slow_weights(job: Deployment, stage: int, *, takes_s: float) -> Deployment:
    """The same job, where one stage's weights take so long to reach its agent."""
    part: Any = SlowPart(num_chunks=round(takes_s / PAUSE_S))
    stages = list(job.stages)
    stages[stage] = replace(stages[stage], parts=(part,))
    return replace(job, stages=tuple(stages))


@dataclass(slots=True)
class OnSending(Silent):
    """Calls `begun` once the first of a job's weights are on their way."""

    begun: Callable[[], None]
    _has_begun: bool = False

    def sending(self, stage: int, done_bytes: int, total_bytes: int) -> None:
        del stage, total_bytes
        if done_bytes and not self._has_begun:
            self._has_begun = True
            self.begun()
