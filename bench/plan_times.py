"""How long the search takes, and what it leaves unproven, on random home clusters.

    .venv/bin/python -m bench.plan_times [--homes N] [--devices 8] [--layers 32]

One setting is the first of each objective: as many groups or microbatches as there can be. Seconds
are of this process's CPU, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from bench.home_clusters import Home, random_home
from bench.plan_gains import Task, work_of
from edgepipe.core.choosing import Searched, cases_of, find
from edgepipe.core.search import Solution, search


def timed(call: Callable[[], Solution | Searched]) -> tuple[float, float]:
    """CPU seconds of a search, and the gap that it comes to."""
    begun = time.process_time()
    found = call()
    return time.process_time() - begun, found.gap


def row_of(task: Task, homes: list[Home], *, whole: bool) -> str:
    """A line of the table: one setting's search, or that of all settings."""
    found: list[tuple[float, float]] = []
    for home in homes:
        asked = home.asked(work_of(task))
        cases = cases_of(asked)
        if whole:
            found.append(timed(partial(find, asked, cases)))
        else:
            found.append(timed(partial(search, cases[0].problem)))
    seconds, gaps = zip(*found, strict=True)
    return f"{median(seconds):.2f} | {max(seconds):.2f} | {max(gaps):.2%}"


def main() -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--homes", type=int, default=10)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--layers", type=int, default=32)
    options = parser.parse_args()
    homes = [
        random_home(seed, num_devices=options.devices, layers=options.layers)
        for seed in range(options.homes)
    ]
    print(f"{options.devices} devices, {options.layers + 2} items, {options.homes} clusters\n")
    print("| | one setting, median s | worst s | gap | all settings, median s | worst s | gap |")
    print("|---|---|---|---|---|---|---|")
    for task in Task:
        cells = [row_of(task, homes, whole=whole) for whole in (False, True)]
        print(f"| {task} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
