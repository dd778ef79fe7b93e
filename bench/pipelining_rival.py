"""torch.distributed.pipelining: its ranks on a LAN or on this machine, and what its steps take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bench.rank_task import RankTask, Schedule
from bench.shaped_network import ROOT, Lan, environment
from bench.training_task import EmulatedTraining, LlamaTraining, Training
from edgepipe.errors import StageError

Process = subprocess.Popen[str]
Start = Callable[[int, Sequence[str], Mapping[str, Any]], Process]
"""Start a rank by its number, command line, and options of Popen."""


def on_lan(lan: Lan, training: EmulatedTraining, *, steps: int) -> dict[Schedule, float]:
    """Median seconds of a step by schedule, with a rank on each of the LAN's first hosts."""

    def start(rank: int, words: Sequence[str], options: Mapping[str, Any]) -> Process:
        return lan.hosts[rank].popen(words, **options)

    return _measure(start, "eth0", training, steps=steps)


def on_loopback(training: LlamaTraining, *, steps: int) -> dict[Schedule, float]:
    """The same with all ranks on this machine, one thread each."""

    def start(_: int, words: Sequence[str], options: Mapping[str, Any]) -> Process:
        return subprocess.Popen(words, cwd=ROOT, **options)

    return _measure(start, "lo", training, steps=steps)


def _measure(
    start: Start, interface: str, training: Training, *, steps: int
) -> dict[Schedule, float]:
    settings = environment(OMP_NUM_THREADS="1", GLOO_SOCKET_IFNAME=interface)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {**pipes, "env": settings, "text": True, "bufsize": -1}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ranks = []
        for rank in range(training.num_stages):
            task = RankTask(
                rank=rank, rendezvous=str(Path(folder, "ranks")), steps=steps, training=training
            )
            words = [sys.executable, "-m", "bench.pipelining_rank", task.to_json()]
            ranks.append(start(rank, words, options))
            stack.callback(_kill, ranks[-1])
        first, *_ = [_output(rank, process) for rank, process in enumerate(ranks)]
    seconds: dict[str, list[float]] = json.loads(first)
    return {Schedule(name): statistics.median(each) for name, each in seconds.items()}


def _output(rank: int, process: Process, deadline_s: float = 600.0) -> str:
    """What a rank printed. Raises StageError where it failed or did not end."""
    try:
        output, complaint = process.communicate(timeout=deadline_s)
    except subprocess.TimeoutExpired as error:
        raise StageError(
            f"rank {rank} of torch.distributed.pipelining was not done after {deadline_s:.0f} s: "
            "run fewer steps, or look for what else keeps this machine busy"
        ) from error
    if process.returncode:
        sys.stderr.write(complaint)
        raise StageError(f"rank {rank} of torch.distributed.pipelining failed as printed above")
    return output


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    process.communicate()
