"""What a job puts on its devices: the plan, and everything that a stage is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgepipe.coordinator.parts import Part
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.core.profile import DeviceProfile, NodeProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlace:
    """One stage of the ring: where it runs, what it needs, and how it sends."""

    node: NodeProfile
    device: DeviceProfile
    first: int
    end: int
    embedding: bool
    head: bool
    parts: tuple[Part, ...]
    codec: Codec
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One job: its stages in ring order and what they share."""

    job: JobId
    epoch: int
    stages: tuple[StagePlace, ...]
    engine: str
    config: Mapping[str, Any]
    dtype: DType
    hidden_size: int
    vocab_size: int
    num_slots: int
    num_groups: int
    max_positions: int
    prefill_chunk: int

    @property
    def lease_order(self) -> tuple[int, ...]:
        """Stages by node and device: the order in which every coordinator takes leases."""
        indices = range(len(self.stages))
        return tuple(
            sorted(indices, key=lambda i: (self.stages[i].node.id, self.stages[i].device.id))
        )
