"""What the exact plan gains over its rivals, simulated: six clusters on paper and 200 random ones.

    .venv/bin/python -m bench.plan_gains [--homes N] [--processes N] [--max-expansions N]

Every figure is a rival's over the plan's: 1.00 is as good as the plan. Exits 1 where a plan is
behind a rival.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from statistics import median, quantiles

from bench.home_clusters import PREFILL_CHUNK, Home, random_home
from edgepipe.coordinator.cluster_file import read_cluster_file
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.choosing import MAX_EXPANSIONS
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.plan import plan
from edgepipe.core.prediction import figure_s
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work

PAPER = Path("docs/clusters")
RIVALS = (Strategy.PROPORTIONAL, Strategy.EQUAL)
_ROUNDING = 1e-9


class Task(StrEnum):
    """What is planned for."""

    LATENCY = "latency"
    THROUGHPUT = "throughput, 8 slots"
    PREFILL = "prefill"
    LORA = "train, LoRA"
    FULL = "train, full"


OBJECTIVES = {
    Task.LATENCY: Objective.LATENCY,
    Task.THROUGHPUT: Objective.THROUGHPUT,
    Task.PREFILL: Objective.PREFILL,
    Task.LORA: Objective.TRAIN,
    Task.FULL: Objective.TRAIN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A plan beside its rivals; a rival's gain is None where it does not fit.

    Without `gains` no plan fits.
    """

    home: str
    task: Task
    gains: dict[Strategy, float | None]
    gap: float
    planning_s: float


def work_of(task: Task) -> Work:
    """One stream, or eight slots; a prompt of 512 tokens; steps of 16 sequences of 512 tokens."""
    trained = {Task.LORA: TrainMode.LORA, Task.FULL: TrainMode.FULL}.get(task)
    return Work(
        objective=OBJECTIVES[task],
        workload=Workload(
            dtype=DType.BFLOAT16,
            num_slots=8 if task is Task.THROUGHPUT else 1,
            max_positions=2048,
            prefill_chunk=PREFILL_CHUNK,
        ),
        batch=None if trained is None else Batch(mode=trained, sequences=16),
    )


def result_of(home: Home, task: Task, *, max_expansions: int) -> Result:
    """Plan, and compare."""
    asked = home.asked(work_of(task))
    begun = time.perf_counter()
    made = plan(
        asked,
        strategy=Strategy.EXACT,
        rivals=RIVALS,
        judging=False,
        max_expansions=max_expansions,
    )
    planning_s = time.perf_counter() - begun
    gains: dict[Strategy, float | None] = {}
    if made.predicted is not None:
        mine = figure_s(OBJECTIVES[task], made.predicted)
        gains = {
            rival.strategy: (
                None
                if rival.predicted is None
                else figure_s(OBJECTIVES[task], rival.predicted) / mine
            )
            for rival in made.rivals
        }
    assert made.feasible or not any(rival.feasible for rival in made.rivals), home.name
    return Result(home=home.name, task=task, gains=gains, gap=made.gap, planning_s=planning_s)


def paper_homes() -> Iterator[Home]:
    """Every cluster of docs/clusters with every model there."""
    with tempfile.TemporaryDirectory() as folder:
        for config in sorted((PAPER / "models").glob("*/config.json")):
            name = config.parent.name
            model = model_shape(name, json.loads(config.read_text()), home=Path(folder))
            for path in sorted(PAPER.glob("*.toml")):
                survey = read_cluster_file(path, model, DType.BFLOAT16, prefill_chunk=PREFILL_CHUNK)
                yield Home(name=f"{path.stem}, {name}", model=model, survey=survey)


def results_of(home: Home, *, max_expansions: int) -> list[Result]:
    """A home's results, task by task."""
    return [result_of(home, task, max_expansions=max_expansions) for task in Task]


def table(results: Sequence[Result]) -> Iterator[str]:
    """The table of gains, as docs/LOG.md keeps it."""
    yield "| | plans | rival | does not fit | median | 90th percentile | most | worst |"
    yield "|---|---|---|---|---|---|---|---|"
    for task in Task:
        planned = [each for each in results if each.task is task and each.gains]
        for rival in RIVALS:
            gains = [gain for each in planned if (gain := each.gains[rival]) is not None]
            lacking = 1 - len(gains) / len(planned) if planned else 0.0
            yield (f"| {task} | {len(planned)} | {rival} | {lacking:.0%} | {_spread(gains)} |")


def _spread(gains: Sequence[float]) -> str:
    if len(gains) < 2:
        return " | ".join(["-"] * 4)
    tenth = quantiles(gains, n=10, method="inclusive")[-1]
    return f"{median(gains):.2f} | {tenth:.2f} | {max(gains):.2f} | {min(gains):.4f}"


def effort(results: Sequence[Result]) -> Iterator[str]:
    """How long planning took, and what it could not prove."""
    yield "| | planning, median s | longest s | largest gap | gap above 1 % |"
    yield "|---|---|---|---|---|"
    for task in Task:
        mine = [each for each in results if each.task is task]
        gaps = [each.gap for each in mine if each.gains]
        times = [each.planning_s for each in mine]
        open_ones = sum(gap > 0.01 for gap in gaps)
        yield (
            f"| {task} | {median(times):.2f} | {max(times):.1f} | {max(gaps, default=0):.1%} "
            f"| {open_ones} of {len(gaps)} |"
        )


def behind(results: Sequence[Result]) -> list[str]:
    """The plans that a rival beats, a line each."""
    return [
        f"{each.home}, {each.task}: {rival} is {1 / gain:.6f} times as fast"
        for each in results
        for rival, gain in each.gains.items()
        if gain is not None and gain < 1 - _ROUNDING
    ]


def show(title: str, results: Sequence[Result]) -> None:
    """Print both tables."""
    print(f"\n{title}\n")
    print("\n".join(table(results)))
    print()
    print("\n".join(effort(results)))


def main() -> int:
    """0 where no plan is behind a rival, else 1."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--homes", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--max-expansions", type=int, default=MAX_EXPANSIONS)
    options = parser.parse_args()
    paper = list(paper_homes())
    homes = [*paper, *map(random_home, range(options.homes))]
    one = partial(results_of, max_expansions=options.max_expansions)
    results: list[Result] = []
    with ProcessPoolExecutor(options.processes) as pool:
        for done, found in enumerate(pool.map(one, homes), start=1):
            results += found
            print(f"\r{done} of {len(homes)} clusters", end="", file=sys.stderr, flush=True)
    on_paper = {home.name for home in paper}
    show("Clusters of docs/clusters", [each for each in results if each.home in on_paper])
    show("Random clusters", [each for each in results if each.home not in on_paper])
    lost = behind(results)
    print("\n".join(lost), file=sys.stderr)
    return int(bool(lost))


if __name__ == "__main__":
    sys.exit(main())
