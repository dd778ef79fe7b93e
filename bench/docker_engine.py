"""A Docker engine for tests: the one that runs here, or else one of our own, which root may start.

An engine of our own keeps everything in one folder. Rules for its networks it does set: where
bridges are filtered (`bridge-nf-call-iptables`), those of an engine that ran before drop all else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

START_WITHIN_S = 60.0
BUILDKIT_SINCE = 23
"""The first major version whose `docker` wants the plugin buildx for BuildKit."""


class NoDocker(Exception):
    """No engine can be had; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Docker:
    """An engine's commands."""

    docker: str
    compose: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, *words: str, within_s: float = 120.0, **changes: str) -> str:
        """What a `docker` command prints. `changes` are of its environment.

        Raises CalledProcessError and TimeoutExpired, whose output was shown.
        """
        return self.call([self.docker, *words], within_s, changes)

    def call(self, command: Sequence[str], within_s: float, changes: Mapping[str, str]) -> str:
        """The same for any command that speaks to the engine."""
        environment = {**os.environ, **self.environment, **changes}
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
            timeout=within_s,
            env=environment,
        ).stdout

    def is_there(self) -> bool:
        """Whether the engine answers."""
        command = [self.docker, "version", "--format", "{{.Server.Version}}"]
        environment = {**os.environ, **self.environment}
        found = subprocess.run(command, capture_output=True, check=False, env=environment)
        return found.returncode == 0


@contextmanager
def engine(folder: Path) -> Iterator[Docker]:
    """An engine that answers; one that had to be started for it lives in `folder` and ends again.

    Raises NoDocker.
    """
    docker = Docker(docker=_cli(), compose=_compose())
    if docker.is_there():
        yield docker
        return
    with _daemon(docker, folder) as own:
        yield own


def _cli() -> str:
    """The first `docker` on the path that can build by BuildKit."""
    found = [
        str(path)
        for folder in os.get_exec_path()
        if os.access(path := Path(folder) / "docker", os.X_OK)
    ]
    if not found:
        raise NoDocker("docker is not installed")
    able = next((each for each in found if _has_buildkit(each)), None)
    if able is None:
        raise NoDocker(f"{found[0]} has no BuildKit: install docker-buildx")
    return able


def _has_buildkit(docker: str) -> bool:
    version = _said(docker, "--version").removeprefix("Docker version ").partition(".")[0]
    is_older = version.isdecimal() and int(version) < BUILDKIT_SINCE
    return is_older or _said(docker, "buildx", "version").startswith("github.com/docker/buildx")


def _compose() -> tuple[str, ...]:
    """`docker compose`, or the older command of its own."""
    plugin = ("docker", "compose")
    if shutil.which("docker") and "Compose" in _said(*plugin, "version"):
        return plugin
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    raise NoDocker("neither docker compose nor docker-compose is installed")


def _said(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, check=False, text=True, timeout=30)
    return found.stdout if found.returncode == 0 else ""


@contextmanager
def _daemon(docker: Docker, folder: Path) -> Iterator[Docker]:
    if shutil.which("dockerd") is None:
        raise NoDocker("no Docker engine runs, and dockerd is not installed")
    if os.geteuid() != 0:
        raise NoDocker("no Docker engine runs, and only root can start one")
    host = f"unix://{folder}/docker.sock"
    own = Docker(docker=docker.docker, compose=docker.compose, environment={"DOCKER_HOST": host})
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_dockerd(folder), "--host", host], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(own, process, log)
        yield own
    finally:
        process.terminate()
        process.wait(timeout=60)


def _dockerd(folder: Path) -> list[str]:
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    return [
        "dockerd",
        *(f"--{option}={folder / name}" for option, name in places.items()),
        "--bridge=none",
    ]


def _wait_until_ready(docker: Docker, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_WITHIN_S
    while not docker.is_there():
        if process.poll() is not None or time.monotonic() > deadline_s:
            last = log.read_text(errors="replace").strip().rpartition("\n")[2]
            raise NoDocker(f"dockerd does not start: {last[-300:]}")
        time.sleep(0.2)
