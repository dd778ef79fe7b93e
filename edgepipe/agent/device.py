"""What a worker process has to work with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.duty import Duty
from edgepipe.agent.figures import Figures
from edgepipe.agent.weights import WeightStore
from edgepipe.transport.channel import Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDevice:
    """One device and the threads that serve it.

    `compute` is the only thread that touches the engine; `coding` encodes and decodes large
    payloads meanwhile. `slowdown` multiplies every compute time, to emulate a slower device.
    `duty` and `figures` say what the worker is at, and what it has done.
    """

    torch_device: torch.device
    slowdown: float
    baseline_bytes: int
    store: WeightStore
    compute: ComputeThread
    coding: ComputeThread
    credentials: Credentials | None
    duty: Duty = field(default_factory=Duty)
    figures: Figures = field(default_factory=Figures)
