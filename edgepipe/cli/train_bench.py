"""`edgepipe bench train`: emulated stages, real schedules, codecs and links."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edgepipe.cli.show import print_json
from edgepipe.coordinator.emulated import (
    Emulation,
    emulate,
    emulated_model,
    emulated_survey,
)
from edgepipe.coordinator.emulated_training import (
    HIDDEN_SIZE,
    ROW_BYTES,
    StepFigures,
    TrainEmulation,
    measure_steps,
    training_deployment,
)
from edgepipe.coordinator.launch import Where, open_cluster
from edgepipe.coordinator.orders import BoundaryCodecs, Orders
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.coordinator.planning import How
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.schedule_file import read_wish
from edgepipe.core.outcome import deepened, play_by
from edgepipe.core.posing import Asked, pose
from edgepipe.core.problem import Stage
from edgepipe.core.schedule import check_size
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.setting import Setting
from edgepipe.core.work import Batch, Objective
from edgepipe.errors import UsageError

MAX_MS = 60_000
MAX_KIB = 1 << 16
MAX_STEPS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainBench:
    """What to measure: times of one stage for all or one each, and the size of an activation."""

    forward_ms: Sequence[float]
    backward_ms: Sequence[float]
    microbatches: int
    activation_kib: int
    schedule: str
    num_steps: int

    def __post_init__(self) -> None:
        """Raises UsageError for numbers that mean nothing."""
        times = {"--forward-ms": self.forward_ms, "--backward-ms": self.backward_ms}
        for name, each in times.items():
            if not each or not all(0 <= ms <= MAX_MS for ms in each):
                raise UsageError(f"{name} wants numbers from 0 to {MAX_MS}")
        check_size(1, self.microbatches)
        if not 4 <= self.activation_kib <= MAX_KIB:
            raise UsageError(f"--activation-kib {self.activation_kib} is not within 4 to {MAX_KIB}")
        if not 1 <= self.num_steps <= MAX_STEPS:
            raise UsageError(f"--steps {self.num_steps} is not within 1 to {MAX_STEPS}")

    @property
    def rows(self) -> int:
        """Rows of an activation, in float32."""
        return self.activation_kib * 1024 // ROW_BYTES


async def bench_train(work: TrainBench, where: Where, how: How, *, json: bool) -> None:
    """`edgepipe bench train`."""
    wish = read_wish(work.schedule)
    async with open_cluster(where) as roster:
        emulation = emulate(
            roster,
            num_stages=how.num_stages,
            stage_s=[ms / 1000 for ms in work.forward_ms],
            backward_s=[ms / 1000 for ms in work.backward_ms],
            nodes=how.nodes,
        )
        asked = await _asked(work, emulation, how, where.home)
        setting = Setting(objective=Objective.TRAIN, num_microbatches=work.microbatches)
        case = pose(asked, setting)
        num_stages = len(emulation.spots)
        placement = tuple(Stage(device=at, first=at, end=at + 1) for at in range(num_stages))
        played, _ = play_by(asked, case, placement, wish)
        depths = deepened(asked, played).depths if wish == Wish() else None
        outcome, schedule = play_by(asked, case, placement, wish, depths)
        trained = TrainEmulation(
            emulation=emulation,
            schedule=schedule,
            rows=work.rows,
            codecs=BoundaryCodecs.of(case, placement),
        )
        deployment = training_deployment(trained)
        async with open_pipeline(deployment, roster.nodes, Silent()) as pipeline:
            orders = Orders(pipeline=pipeline)
            listening = asyncio.create_task(orders.listen())
            try:
                figures = await measure_steps(orders, trained, num_steps=work.num_steps)
            finally:
                listening.cancel()
    document = _document(trained, figures, outcome.seconds, wish)
    if json:
        print_json(document)
    else:
        Console().print(_table(document))


async def _asked(work: TrainBench, emulation: Emulation, how: How, home: Path) -> Asked:
    survey = await emulated_survey(emulation, home=home, fresh=how.fresh_profile)
    model = replace(emulated_model(len(emulation.spots)), hidden_size=HIDDEN_SIZE)
    batch = Batch(sequences=work.microbatches, sequence_length=work.rows)
    planned = replace(how, objective=Objective.TRAIN, batch=batch)
    return Asked.of(
        model,
        survey,
        planned.work(model, work.rows),
        nodes=list(dict.fromkeys(spot.node.profile.name for spot in emulation.spots)),
        codec=how.codec,
    )


def _document(
    trained: TrainEmulation, figures: StepFigures, predicted_s: float, wish: Wish
) -> dict[str, Any]:
    return {
        **asdict(figures),
        "ideal_step_s": trained.ideal_step_s,
        "predicted_step_s": predicted_s,
        "error": figures.step_s / predicted_s - 1,
        "schedule": wish.name,
        "depths": [trained.schedule.inflight(at) for at in range(trained.schedule.num_stages)],
        "codecs_forward": list(trained.codecs.forward),
        "codecs_backward": list(trained.codecs.backward),
    }


def _table(document: dict[str, Any]) -> Table:
    table = Table(box=box.SIMPLE)
    for heading in ("step", "ideal", "predicted", "bubble", "bytes a step", "in flight", "codecs"):
        table.add_column(heading, justify="right")
    step_s, ideal_s = document["step_s"], document["ideal_step_s"]
    over = f" ({step_s / ideal_s - 1:+.1%})" if ideal_s else ""
    table.add_row(
        f"{step_s:.3f} s{over}",
        f"{ideal_s:.3f} s",
        f"{document['predicted_step_s']:.3f} s ({document['error']:+.1%})",
        f"{document['bubble']:.1%}",
        f"{document['bytes_per_step'] / 1e6:.1f} MB",
        " ".join(map(str, document["inflight"])),
        " ".join([*document["codecs_forward"], *document["codecs_backward"]]) or "-",
    )
    return table
