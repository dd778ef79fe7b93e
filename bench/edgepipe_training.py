"""edgepipe's side: `edgepipe bench train` on a LAN's agents, `edgepipe train` on this machine."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.lan_agents import command
from bench.llama_folder import write_run
from bench.shaped_network import ROOT, Host, environment
from bench.training_task import EmulatedTraining, LlamaTraining
from edgepipe.core.frame import Codec
from edgepipe.errors import StageError

WARM_UPS = 2
DEADLINE_S = 600


def bench_train(
    laptop: Host,
    peers: Sequence[str],
    training: EmulatedTraining,
    *,
    codec: Codec,
    steps: int,
    home: Path,
) -> float:
    """Median seconds of a step, typed on `laptop`. Raises StageError where the command fails."""
    words = {
        "--stages": training.num_stages,
        "--forward-ms": training.forward_ms,
        "--backward-ms": training.backward_ms,
        "--microbatches": training.num_microbatches,
        "--activation-kib": training.activation_kib,
        "--codec": codec,
        "--steps": steps,
    }
    flags = [str(word) for pair in words.items() for word in pair]
    # What was measured on links of another rate is of no use.
    line = command("bench", "train", *flags, "--fresh-profile", "--insecure", "--json", *peers)
    done = laptop.run(line, env=_settings(home), timeout=DEADLINE_S)
    return float(_document(done)["step_s"])


def train(training: LlamaTraining, *, steps: int) -> float:
    """Median seconds of a step of `edgepipe train`, one thread a stage, the first steps left out.

    Raises StageError where the command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        config = write_run(Path(name), training, num_steps=WARM_UPS + steps)
        words = ("train", str(config), "--local", str(training.num_stages), "--threads", "1")
        cut = ("--split", ",".join(map(str, training.cuts[1:-1])), "--codec", "none")
        done = subprocess.run(
            command(*words, *cut, "--json"),
            cwd=ROOT,
            env=_settings(Path(name, "home")),
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        metrics = Path(_document(done)["run"], "metrics.jsonl").read_text().splitlines()
    seconds = [float(json.loads(line)["step_s"]) for line in metrics]
    return statistics.median(seconds[WARM_UPS:])


def _settings(home: Path) -> dict[str, str]:
    return environment(EDGEPIPE_HOME=str(home), OMP_NUM_THREADS="1", NO_COLOR="1")


def _document(done: subprocess.CompletedProcess[str]) -> Mapping[str, Any]:
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise StageError("edgepipe's own command failed as printed above")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
