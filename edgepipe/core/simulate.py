"""What a plan would do, event by event: training by a schedule, decode, and prefill.

compute    a stage is busy for its seconds; it sends a result and goes on     (core.timeline)
network    a frame occupies its link, NICs or media, then its latency passes  (core.hop),
           and shares them with others that travel at once                   (core.sharing)

It sees what the closed cost model (core.costs) does not: frames that slow each other down at a NIC,
links slower than any stage, and schedules. Without those, and where no NIC is slower than the links
through it, both agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import assert_never

from edgepipe.core.goal import Latency, Prefill, Throughput, Train
from edgepipe.core.hop import Frame, Hop, Place, hop
from edgepipe.core.problem import Nic, Placement, Problem
from edgepipe.core.ring import Ring, Visit
from edgepipe.core.schedule import Action, Kind, Schedule, needed_by
from edgepipe.core.simulation import Simulation, bottleneck, simulation
from edgepipe.core.timeline import Input, Task, timeline

WARM_UP_TURNS = 8
"""Turns of the ring before the steady state is measured."""

MEASURED_TURNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStage:
    """A stage's seconds for one microbatch; a backward that recomputes takes longer."""

    place: Place
    forward_s: float
    backward_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Between stages i and i + 1: activations down the pipeline, gradients up."""

    down: Frame
    up: Frame


def train(
    schedule: Schedule,
    stages: Sequence[TrainStage],
    boundaries: Sequence[Boundary],
    nics: Mapping[str, Nic],
) -> Simulation[Action]:
    """One step by a schedule that `schedule_check.check` passes.

    `schedule.inflight` tells the most microbatches that each stage holds.
    """
    assert len(stages) == schedule.num_stages == len(boundaries) + 1
    places = [stage.place for stage in stages]
    between = list(zip(pairwise(places), boundaries, strict=True))
    down = [hop(above, below, boundary.down, nics) for (above, below), boundary in between]
    up = [hop(below, above, boundary.up, nics) for (above, below), boundary in between]
    run = timeline(
        [
            [_train_task(action, stage, down, up) for action in actions]
            for stage, actions in zip(stages, schedule.stages, strict=True)
        ]
    )
    stage_s = [stage.forward_s + stage.backward_s for stage in stages]
    return simulation(
        run,
        seconds=run.end_s,
        num_frames=schedule.num_microbatches,
        stage_s=stage_s,
        busiest=bottleneck(places, stage_s, [*down, *up]),
    )


def _train_task(
    action: Action, stage: TrainStage, down: Sequence[Hop], up: Sequence[Hop]
) -> Task[Action]:
    seconds = stage.forward_s if action.kind is Kind.FORWARD else stage.backward_s
    return Task(action=action, seconds=seconds, takes=_train_input(action, down, up))


def _train_input(action: Action, down: Sequence[Hop], up: Sequence[Hop]) -> Input[Action] | None:
    """None where nothing is needed, or what the stage has of itself."""
    need = needed_by(action, num_stages=len(down) + 1)
    if need is None or need.stage == action.stage:
        return None
    over = down[need.stage] if need.kind is Kind.FORWARD else up[action.stage]
    return Input(action=need, hop=over)


def infer(problem: Problem, placement: Placement) -> Simulation[Visit]:
    """What the problem's goal asks for; `seconds` compares with `costs.cost(…).seconds`."""
    match problem.goal:
        case Latency():
            return decode(problem, placement, num_groups=1)
        case Throughput(num_groups=num_groups):
            return decode(problem, placement, num_groups=num_groups)
        case Prefill(num_chunks=num_chunks):
            return prefill(problem, placement, num_chunks=num_chunks)
        case Train():
            raise AssertionError("a training step is played from its schedule")
        case _:
            assert_never(problem.goal)


def decode(problem: Problem, placement: Placement, *, num_groups: int) -> Simulation[Visit]:
    """Groups that go round the ring, one of them a single stream: seconds per group.

    All groups wait at the first stage at first; what they take is measured after
    `WARM_UP_TURNS`. They may still go faster then than the busiest stage or link, where the queue
    for it has not quite formed, but no steady state does.
    """
    ring = Ring.of(problem, placement)
    num_turns = WARM_UP_TURNS + MEASURED_TURNS
    run = timeline(ring.tasks(num_groups * num_turns + 1, num_groups=num_groups))
    begins = [run.stages[0][num_groups * turn].begin_s for turn in (WARM_UP_TURNS, num_turns)]
    measured = (begins[1] - begins[0]) / (num_groups * MEASURED_TURNS)
    busiest = bottleneck(ring.places, ring.stage_s, (*ring.hops, ring.back))
    seconds = max(measured, busiest.seconds)
    return simulation(run, seconds=seconds, num_frames=1, stage_s=ring.stage_s, busiest=busiest)


def prefill(problem: Problem, placement: Placement, *, num_chunks: int) -> Simulation[Visit]:
    """A prompt's chunks, one after another: seconds until the last has left the last stage."""
    ring = Ring.of(problem, placement)
    run = timeline(ring.tasks(num_chunks, num_groups=num_chunks))
    return simulation(
        run,
        seconds=run.end_s,
        num_frames=num_chunks,
        stage_s=ring.stage_s,
        busiest=bottleneck(ring.places, ring.stage_s, ring.hops),
    )
