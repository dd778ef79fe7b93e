"""Predicted before anything loads, from profiles taken in the same run, beside what came of it.

Machines on a LAN whose links are unlimited, 100 and 50 Mbit/s; a laptop types `bench decode`, or
`bench train`. Emulated stages of unequal times on two to four machines, and SmolLM2 on two, one of
them slowed.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.lan_agents import command, machines
from bench.shaped_network import Host, Lan, environment

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(1200)]

RATES = (None, "100mbit", "50mbit")
MEDIAN, WORST = 0.10, 0.15
EMULATED = ("10,20", "20,12,16", "10,20,14,17")


TRAINED = (("20", "40"), ("10,20,14,17", "20,40,30,35"))
"""Forward and backward of four stages, in ms."""


def bench(laptop: Host, home: Path, what: str, *words: str) -> dict[str, Any]:
    settings = environment(EDGEPIPE_HOME=str(home), OMP_NUM_THREADS="1", NO_COLOR="1")
    options = ("--fresh-profile", "--json", "--insecure")
    done = laptop.run(command("bench", what, *words, *options), env=settings, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def errors_of(found: dict[str, Any]) -> dict[str, float]:
    """How far decode and prefill are from what was predicted."""
    prefill = found["prefill_tokens_per_s"] / found["predicted_prefill_tokens_per_s"] - 1
    return {"decode": found["decode"][0]["error"], "prefill": prefill}


def expect_believable(errors: dict[str, float]) -> None:
    sizes = sorted(abs(error) for error in errors.values())
    told = "\n".join(f"{name}: {error:+.1%}" for name, error in errors.items())
    sys.stdout.write(f"\n{told}\nmedian {statistics.median(sizes):.1%}, worst {sizes[-1]:.1%}\n")
    assert statistics.median(sizes) <= MEDIAN, told
    assert sizes[-1] <= WORST, told


def test_of_emulated_stages(lan: Callable[..., Lan], tmp_path: Path) -> None:
    network = lan(5)
    *_, laptop = network.hosts
    errors = {}
    with machines(network, tmp_path, [1.0] * 4) as peers:
        for rate in RATES:
            for host in network.hosts if rate else ():
                network.shape(host, str(rate))
            for times in EMULATED:
                count = times.count(",") + 1
                names = ",".join(f"m{index}" for index in range(count))
                words = ("--engine", "emulated", "--stage-ms", times, "--nodes", names)
                work = ("--tokens", "96", "--prompt-tokens", "512", "--codec", "none")
                found = bench(laptop, tmp_path / "laptop", "decode", *words, *work, *peers)
                for what, error in errors_of(found).items():
                    errors[f"{what}, {times} ms, {rate or 'unlimited'}"] = error
    expect_believable(errors)


def test_of_a_real_model(lan: Callable[..., Lan], tmp_path: Path, session_home: Path) -> None:
    network = lan(3)
    *_, laptop = network.hosts
    errors = {}
    with machines(network, tmp_path, [1.0, 2.0]) as peers:
        for rate in RATES:
            for host in network.hosts if rate else ():
                network.shape(host, str(rate))
            for cut in (("--split", "18"), ("--strategy", "exact", "--stages", "2")):
                words = ("smollm2-135m", "--tokens", "64", "--prompt-tokens", "384")
                work = ("--dtype", "float32", "--codec", "none")
                found = bench(laptop, session_home, "decode", *words, *work, *cut, *peers)
                for what, error in errors_of(found).items():
                    errors[f"{what}, {' '.join(cut)}, {rate or 'unlimited'}"] = error
    expect_believable(errors)


def test_of_training_steps(lan: Callable[..., Lan], tmp_path: Path) -> None:
    network = lan(5)
    *_, laptop = network.hosts
    errors = {}
    with machines(network, tmp_path, [1.0] * 4) as peers:
        for rate in RATES:
            for host in network.hosts if rate else ():
                network.shape(host, str(rate), burst="32kb")
            for forward, backward in TRAINED:
                for codec in ("none", "int8"):
                    words = ("--forward-ms", forward, "--backward-ms", backward, "--stages", "4")
                    work = ("--steps", "5", "--codec", codec)
                    found = bench(laptop, tmp_path / "laptop", "train", *words, *work, *peers)
                    name = f"{forward} and {backward} ms, {codec}, {rate or 'unlimited'}"
                    errors[name] = found["error"]
    expect_believable(errors)
