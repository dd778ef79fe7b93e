"""A placement as tasks of a timeline: frames that pass its stages, and go home for another turn.

prefill, chunks 0 1 2                decode, groups a b: frames 0 and 2 are a, 1 and 3 are b
stage 0  0 1 2                       stage 0  0 1 . 2 3
stage 1  . 0 1 2                     stage 1  . 0 1 . 2 3
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from edgepipe.core.hop import Frame, Hop, Place, hop
from edgepipe.core.problem import Floats, Placement, Problem, check_placement, stage_s
from edgepipe.core.timeline import Input, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A frame on a stage: a chunk of a prompt; or of decode, turn by turn, one of each group."""

    stage: int
    frame: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A placement's stages, the hops between them, and the hop back to the first."""

    places: tuple[Place, ...]
    stage_s: tuple[float, ...]
    hops: tuple[Hop, ...]
    back: Hop

    @classmethod
    def of(cls, problem: Problem, placement: Placement) -> Self:
        """The placement's ring."""
        check_placement(problem, placement)
        last, first = placement[-1].device, placement[0].device
        frame_bytes, return_bytes = problem.frame_bytes, problem.traffic.return_bytes
        nothing = return_bytes is None or last == first
        return cls(
            places=tuple(_place(problem, stage.device) for stage in placement),
            stage_s=tuple(stage_s(problem, stage) for stage in placement),
            hops=tuple(
                _hop(
                    problem,
                    sender.device,
                    receiver.device,
                    float(frame_bytes[sender.device, receiver.device]),
                    problem.link_latency_s,
                )
                for sender, receiver in pairwise(placement)
            ),
            back=Hop()
            if nothing
            else _hop(problem, last, first, return_bytes or 0, problem.home_latency_s),
        )

    def tasks(self, num_frames: int, *, num_groups: int) -> list[list[Task[Visit]]]:
        """Per stage, all frames in turn.

        Stages and hops keep the order of the groups, so that every turn has it.
        """
        return [
            [
                Task(
                    action=Visit(stage=stage, frame=frame),
                    seconds=seconds,
                    takes=self._input(stage, frame, num_groups),
                )
                for frame in range(num_frames)
            ]
            for stage, seconds in enumerate(self.stage_s)
        ]

    def _input(self, stage: int, frame: int, num_groups: int) -> Input[Visit] | None:
        """The frame from the stage before; on the first, what came home of its last turn."""
        if stage > 0:
            return Input(action=Visit(stage=stage - 1, frame=frame), hop=self.hops[stage - 1])
        if frame < num_groups or not self.hops:
            return None
        before = Visit(stage=len(self.hops), frame=frame - num_groups)
        return Input(action=before, hop=self.back)


def _place(problem: Problem, device: int) -> Place:
    where = problem.devices[device]
    return Place(name=where.name, host=where.host)


def _hop(problem: Problem, sender: int, receiver: int, num_bytes: float, latency_s: Floats) -> Hop:
    frame = Frame(
        num_bytes=num_bytes,
        bytes_per_s=float(problem.link_bytes_per_s[sender, receiver]),
        latency_s=float(latency_s[sender, receiver]),
    )
    return hop(_place(problem, sender), _place(problem, receiver), frame, problem.nics)
