"""Many begun pipelines at once, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from edgepipe.core.graph import Graph
from edgepipe.core.problem import Bools, Floats, Ints, Placement, Stage


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Begun:
    """Pipelines of p stages [N]: `path` [N, p, 2] holds each stage's device and end.

    `peak` is the busiest stage or resource so far, `loads` [N, S] and `taken` [N, C] what they
    put on shared resources and memory, `used` their devices as bits. For training, `before` [N, p]
    are the seconds before each stage, `depth` [N, p] its microbatches in flight, and `update` the
    slowest optimizer; `kept` [N, C] is what one microbatch in flight on every stage takes of shared
    memory, `kept_s` the same times the seconds before each stage.
    """

    path: Ints
    used: Ints
    total: Floats
    peak: Floats
    loads: Floats
    taken: Floats
    kept: Floats
    kept_s: Floats
    before: Floats
    depth: Floats
    update: Floats
    bound: Floats

    def __len__(self) -> int:
        return len(self.bound)

    @property
    def start(self) -> Ints:
        """Where their next stage begins [N]."""
        ends = self.path[:, :, 1]
        return ends[:, -1] if ends.shape[1] else np.zeros(len(self), dtype=np.int64)

    def at(self, index: Ints | Bools | slice) -> Begun:
        """Some of them."""
        return Begun(**{one.name: getattr(self, one.name)[index] for one in fields(self)})


def joined(parts: list[Begun]) -> Begun:
    """All of them in one."""
    return Begun(
        **{
            one.name: np.concatenate([getattr(part, one.name) for part in parts])
            for one in fields(Begun)
        }
    )


def empty(graph: Graph) -> Begun:
    """One pipeline without a stage."""
    return Begun(
        path=np.zeros((1, 0, 2), dtype=np.int64),
        used=np.zeros(1, dtype=np.int64),
        total=np.zeros(1),
        peak=np.zeros(1),
        loads=np.zeros((1, graph.hop_loads.shape[2])),
        taken=np.zeros((1, len(graph.memory.rooms))),
        kept=np.zeros((1, len(graph.memory.rooms))),
        kept_s=np.zeros((1, len(graph.memory.rooms))),
        before=np.zeros((1, 0)),
        depth=np.zeros((1, 0)),
        update=np.zeros(1),
        bound=np.zeros(1),
    )


def bit_of(device: Ints) -> Ints:
    """The devices' places in `used`: of 64 devices the last one has the sign."""
    place: Ints = np.left_shift(np.int64(1), device)
    return place


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spans:
    """Begun pipelines `at` these numbers [P] with a further stage, up to its `end`.

    `taken`, `kept` and `kept_s` are [P, C].
    `depth` is the added stage's own.
    """

    at: Ints
    end: Ints
    total: Floats
    peak: Floats
    taken: Floats
    kept: Floats
    kept_s: Floats
    depth: Floats
    update: Floats

    def __len__(self) -> int:
        return len(self.at)


def placement_of(path: Ints, device: int, num_layers: int) -> Placement:
    """The placement of a begun pipeline's stages [p, 2] and a last one on the device."""
    stages = [*path.tolist(), [device, num_layers]]
    begins = [0, *(end for _, end in stages)]
    return tuple(
        Stage(device=device, first=first, end=end)
        for first, (device, end) in zip(begins, stages, strict=False)
    )
