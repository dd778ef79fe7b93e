"""What a worker process has to work with."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.weights import WeightStore
from edgepipe.transport.channel import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDevice:
    """One device and the threads that serve it.

    `compute` is the only thread that touches the engine; `coding` encodes and decodes large
    payloads meanwhile. `slowdown` multiplies every compute time, to emulate a slower device.
    """

    torch_device: torch.device
    slowdown: float
    baseline_bytes: int
    store: WeightStore
    compute: ComputeThread
    coding: ComputeThread
    credentials: Credentials | None
