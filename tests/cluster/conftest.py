"""Real agents: supervisors and workers as processes of their own, on loopback."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

SMOLLM2 = "smollm2-135m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The last line of standard error: the error, where there is one."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edgepipe:
    """The command line, with a home of its own."""

    home: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "EDGEPIPE_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }

    def popen(self, *args: object, **options: Any) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "edgepipe", *(str(arg) for arg in args)]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(words, env=self.environment, text=True, **{**pipes, **options})

    def __call__(self, *args: object, stdin: str | None = None, deadline_s: float = 90) -> Command:
        process = self.popen(*args, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, timeout=deadline_s)
        return Command(code=process.returncode, out=out, err=err)


@dataclass(slots=True, kw_only=True)
class Agent:
    """One running agent."""

    name: str
    port: int
    process: subprocess.Popen[str]

    @property
    def peer(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Some agents of one cluster, reached as static peers."""

    edgepipe: Edgepipe
    name: str
    agents: Sequence[Agent]

    @property
    def flags(self) -> list[str]:
        peers = [word for agent in self.agents for word in ("--peer", agent.peer)]
        return ["--cluster", self.name, *peers]

    def run(self, *args: object, **options: Any) -> Command:
        """A command that uses these agents."""
        return self.edgepipe(*args, *self.flags, **options)


def start_agents(
    stack: ExitStack, edgepipe: Edgepipe, names: Sequence[str], *flags: object
) -> Cluster:
    """Start agents and wait until they listen; they are ended with `stack`."""
    cluster = Cluster(edgepipe=edgepipe, name=f"test-{secrets.token_hex(4)}", agents=[])
    processes = [_start(stack, cluster, name, 0, *flags) for name in names]
    agents = [
        Agent(name=name, port=port_of(process, log=_log(cluster)), process=process)
        for name, process in zip(names, processes, strict=True)
    ]
    return replace(cluster, agents=agents)


def start_again(stack: ExitStack, cluster: Cluster, agent: Agent, *flags: object) -> None:
    """Start an agent that was ended, where it was; wait until it listens."""
    agent.process = _start(stack, cluster, agent.name, agent.port, *flags)
    assert port_of(agent.process, log=_log(cluster)) == agent.port


def _start(
    stack: ExitStack, cluster: Cluster, name: str, port: int, *flags: object
) -> subprocess.Popen[str]:
    edgepipe = cluster.edgepipe
    log = stack.enter_context(_log(cluster).open("a"))
    listen = ("--listen", f"127.0.0.1:{port}", "--device", "cpu", "--threads", 1, "--no-mdns")
    words = ("agent", *listen, "--cluster", cluster.name, "--name", name, *flags)
    process = edgepipe.popen(*words, stderr=log)
    stack.callback(end, process)
    return process


def port_of(process: subprocess.Popen[str], *, log: Path | None = None) -> int:
    """Where an agent listens, once it does; one that ended instead shows its log's last words."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        words = log.read_text()[-2000:] if log else "in the test's own errors"
        pytest.fail(f"The agent ended with code {process.wait()}, and its log so:\n{words}")
    return int(json.loads(line)["port"])


def _log(cluster: Cluster) -> Path:
    """What its agents say, all of them."""
    return cluster.edgepipe.home / f"{cluster.name}.log"


def end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """A shell makes what it starts with `&` deaf to SIGINT, and so would be our commands."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def edgepipe(session_home: Path) -> Edgepipe:
    return Edgepipe(home=session_home)


@pytest.fixture(scope="session")
def cluster(edgepipe: Edgepipe) -> Iterator[Cluster]:
    """Four agents that a whole session of tests shares; each test leaves them free."""
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["ada", "bob", "cyd", "dan"])
