"""An agent on each host of a LAN, for a command that another host types."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.shaped_network import Host, Lan, environment, next_line


def command(*words: str) -> list[str]:
    """`edgepipe WORDS`, of this checkout."""
    return [sys.executable, "-m", "edgepipe", *words]


@contextmanager
def machines(lan: Lan, home: Path, slowdowns: Sequence[float]) -> Iterator[list[str]]:
    """Agents m0, m1 … of one thread on the first hosts, one per slowdown; the flags to find them.

    `home` is a folder in which every agent gets a home of its own, and a log.
    """
    processes = [
        _agent(host, home, slowdown) for host, slowdown in zip(lan.hosts, slowdowns, strict=False)
    ]
    peers = []
    for host, process in zip(lan.hosts, processes, strict=False):
        port = json.loads(next_line(process, 120))["port"]
        peers += ["--peer", f"{host.address}:{port}"]
    yield peers
    for process in processes:
        process.terminate()
        process.wait(timeout=20)


def _agent(host: Host, home: Path, slowdown: float) -> subprocess.Popen[Any]:
    settings = environment(EDGEPIPE_HOME=str(home / f"host{host.index}"), OMP_NUM_THREADS="1")
    words = ("agent", "--name", f"m{host.index}", "--device", "cpu", "--threads", "1")
    flags = ("--slowdown", str(slowdown), "--no-mdns", "--insecure")
    with (home / f"host{host.index}.log").open("wb") as log:
        return host.popen(command(*words, *flags), env=settings, stderr=log)
