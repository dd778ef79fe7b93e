"""What a placement asks of memory: each device's stage, or only its idle worker."""

from __future__ import annotations

from collections.abc import Sequence

from edgepipe.core.fit import Claim
from edgepipe.core.problem import Placement, Problem


def claims_of(
    problem: Problem, placement: Placement, inflight: Sequence[int] | None = None
) -> tuple[Claim, ...]:
    """What every device holds; in training with so many microbatches in flight on each stage.

    `inflight` is one on every stage where it is not given.
    """
    counts = inflight or [1] * len(placement)
    taken = {
        stage.device: _stage_bytes(problem, stage.first, stage.end, count)
        for stage, count in zip(placement, counts, strict=True)
    }
    return tuple(
        Claim(
            node=device.node,
            device=device.device,
            pool=device.pool,
            memory_bytes=device.baseline_bytes + taken.get(index, 0),
            limit_bytes=device.memory_limit_bytes,
            idle=index not in taken,
        )
        for index, device in enumerate(problem.devices)
    )


def _stage_bytes(problem: Problem, first: int, end: int, inflight: int) -> int:
    held = int(problem.stage_bytes[first, end])
    if problem.training is None:
        return held
    return held + inflight * int(problem.training.inflight_bytes[first, end])
