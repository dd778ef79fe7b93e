"""What a job puts on its devices: the plan, and everything that a stage is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgepipe.coordinator.parts import Part
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.core.profile import DeviceProfile, NodeProfile
from edgepipe.core.schedule_credits import Credits
from edgepipe.core.training import Training
from edgepipe.core.weight_format import WeightFormat


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
    engine: str = "torch"
    weight_format: WeightFormat | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSetup:
    """How a deployment trains: what stages are told, and the sizes of what passes between them.

    `credits` are of each boundary, in pipeline order. With `exchange` a tied embedding is trained
    that is on two stages.
    """

    training: Training
    max_rows: int
    max_order_rows: int
    credits: tuple[Credits, ...]
    exchange: bool

    def credits_of(self, stage: int) -> Credits:
        """Activations and gradients that a stage is ready to hold; at least one of each."""
        before = self.credits[stage - 1].forward if stage > 0 else 1
        after = self.credits[stage].backward if stage < len(self.credits) else 1
        return Credits(forward=before, backward=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One job: its stages in ring order and what they share; with a `setup`, it trains."""

    job: JobId
    epoch: int
    stages: tuple[StagePlace, ...]
    config: Mapping[str, Any]
    dtype: DType
    hidden_size: int
    vocab_size: int
    num_slots: int
    num_groups: int
    max_positions: int
    prefill_chunk: int
    max_draft: int = 0
    draft_cost: float = 0.0
    setup: TrainingSetup | None = None

    @property
    def lease_order(self) -> tuple[int, ...]:
        """Stages by node and device: the order in which every coordinator takes leases."""
        indices = range(len(self.stages))
        return tuple(
            sorted(indices, key=lambda i: (self.stages[i].node.id, self.stages[i].device.id))
        )
