"""One rank of torch.distributed.pipelining over gloo: trains some steps, tells their seconds.

python -m bench.pipelining_rank TASK        TASK as `RankTask.to_json` gives it
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import assert_never

import torch
import torch.distributed as dist
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.pipelining.schedules import PipelineScheduleSingle

from bench.emulated_stage import emulated_stage
from bench.rank_task import RankTask, Schedule
from bench.rival_stage import RivalStage
from bench.training_task import EmulatedTraining, LlamaTraining

PATIENCE = timedelta(seconds=300)
"""Of a rank for the others: four that start at once on a busy machine are slow to import torch."""

_SCHEDULES: Mapping[Schedule, type[PipelineScheduleSingle]] = {
    Schedule.GPIPE: ScheduleGPipe,
    Schedule.ONE_F_ONE_B: Schedule1F1B,
}


def stage_of(task: RankTask) -> RivalStage:
    """What the rank holds."""
    match task.training:
        case EmulatedTraining():
            return emulated_stage(task.training)
        case LlamaTraining():
            from bench.llama_stage import llama_stage  # noqa: PLC0415 (transformers takes seconds)

            return llama_stage(task.training, task.rank)
    assert_never(task.training)


def step_times(task: RankTask, stage: RivalStage, schedule: Schedule) -> list[float]:
    """Seconds of each step after the warm-ups.

    On rank 0 they are the pipeline's: it begins a step first and ends it last.
    """
    runs = _SCHEDULES[schedule](
        PipelineStage(stage.module, task.rank, task.training.num_stages, torch.device("cpu")),
        n_microbatches=task.training.num_microbatches,
        loss_fn=stage.loss,
    )
    seconds = []
    for _ in range(task.warm_ups + task.steps):
        begun = time.perf_counter()
        _step(task, stage, runs)
        seconds.append(time.perf_counter() - begun)
    return seconds[task.warm_ups :]


def _step(task: RankTask, stage: RivalStage, runs: PipelineScheduleSingle) -> None:
    inputs = (stage.batch,) if task.rank == 0 else ()
    is_last = task.rank == task.training.num_stages - 1
    runs.step(*inputs, target=stage.targets if is_last else None, return_outputs=False)
    if stage.optimizer is not None:
        stage.optimizer.step()
        stage.optimizer.zero_grad()


def main() -> None:
    """Print the seconds of every step, by schedule, as JSON."""
    task = RankTask.from_json(sys.argv[1])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{task.rendezvous}",
        rank=task.rank,
        world_size=task.training.num_stages,
        timeout=PATIENCE,
    )
    stage = stage_of(task)
    print(json.dumps({schedule: step_times(task, stage, schedule) for schedule in Schedule}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
