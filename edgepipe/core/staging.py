"""A placement as a plan's stages: what each holds, sends and is predicted to take."""

from __future__ import annotations

from dataclasses import replace

from edgepipe.core.costs import cost
from edgepipe.core.fit import stage_memory
from edgepipe.core.frame import Codec
from edgepipe.core.outcome import Outcome, stage_times
from edgepipe.core.pipeline import Stage
from edgepipe.core.posing import Asked, Case
from edgepipe.core.problem import Placement, Problem
from edgepipe.core.problem import Stage as Placed
from edgepipe.core.schedule import usable_depths


def stages_of(
    asked: Asked, case: Case, placement: Placement, outcome: Outcome | None
) -> tuple[Stage, ...]:
    """The stages of a placement in one setting; `outcome` is None where it does not fit."""
    inflight = outcome.depths if outcome is not None else ()
    inflight = inflight or _inflight(case, placement)
    busy = (0.0,) * len(placement) if outcome is None else outcome.simulation.busy_share
    times = stage_times(asked, case, placement)
    devices = [stage.device for stage in placement]
    after, before = [*devices[1:], devices[0]], [devices[0], *devices[:-1]]
    return tuple(
        replace(
            _stage(asked, case.problem, placed, inflight[at]),
            forward_s=times[at][0],
            backward_s=times[at][1],
            codec_forward=(
                case.forward.codecs[placed.device][after[at]]
                if at < len(placement) - 1
                else asked.codec or Codec.NONE
            ),
            codec_backward=(
                None if case.backward is None else case.backward.codecs[placed.device][before[at]]
            ),
            inflight=inflight[at],
            predicted_busy=busy[at],
            engine=asked.survey.speeds[placed.device].engine,
        )
        for at, placed in enumerate(placement)
    )


def _inflight(case: Case, placement: Placement) -> tuple[int, ...]:
    """The microbatches in flight that each stage can reach; one each without training."""
    depths = cost(case.problem, placement).inflight
    if not depths:
        return (1,) * len(placement)
    return usable_depths(depths, case.setting.num_microbatches)


def _stage(asked: Asked, problem: Problem, placed: Placed, inflight: int) -> Stage:
    """The stage and what it takes; in training the optimizer's states count as workspace."""
    model, first, end = asked.model, placed.first, placed.end
    head = end == model.num_layers
    memory = stage_memory(
        model, model.items(first, end, embedding=first == 0, head=head), asked.work.workload
    )
    where = problem.devices[placed.device]
    training = problem.training
    held = int(problem.stage_bytes[first, end])
    kv_bytes = memory.kv_bytes if training is None else 0
    flying = 0 if training is None else inflight * int(training.inflight_bytes[first, end])
    return Stage(
        node=where.node,
        device=where.device,
        first=first,
        end=end,
        embedding=first == 0,
        head=head,
        memory_bytes=where.baseline_bytes + held + flying,
        memory_limit_bytes=where.memory_limit_bytes,
        baseline_bytes=where.baseline_bytes,
        weight_bytes=memory.weight_bytes,
        kv_bytes=kv_bytes,
        workspace_bytes=held - memory.weight_bytes - kv_bytes,
        inflight_bytes=flying,
    )
