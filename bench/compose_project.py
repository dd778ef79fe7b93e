"""The project of docker/compose.yaml, brought up under a name of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench.docker_engine import Docker
from bench.shaped_network import ROOT

ASK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """Its services. `settings` are what docker/.env.example lists."""

    docker: Docker
    name: str
    settings: Mapping[str, str]

    def compose(self, *words: str, within_s: float = 120.0) -> str:
        """What a command of Compose prints."""
        where = ("--project-name", self.name, "--file", str(ROOT / "docker/compose.yaml"))
        command = [*self.docker.compose, *where, *words]
        return self.docker.call(command, within_s, self.settings)

    def up(self, *services: str, within_s: float) -> None:
        """Start services of an image that is there, and wait until they are healthy."""
        deadline_s = time.monotonic() + within_s
        self.compose("up", "--detach", "--no-build", *services, within_s=within_s)
        for service in services:
            self.wait_healthy(service, deadline_s)

    def wait_healthy(self, service: str, deadline_s: float) -> None:
        """Until a time by the monotonic clock. Raises TimeoutError, with the end of its log."""
        while (state := self._state(service)) != "healthy":
            if time.monotonic() > deadline_s:
                log = self.docker.run("logs", "--tail", "20", self.container(service))
                raise TimeoutError(f"{service} is {state}, not healthy in time:\n{log}")
            time.sleep(ASK_EVERY_S)

    def _state(self, service: str) -> str:
        words = ("inspect", "--format", "{{.State.Health.Status}}", self.container(service))
        return self.docker.run(*words).strip()

    def container(self, service: str) -> str:
        """The id of its container, running or not."""
        labels = {"project": self.name, "service": service}
        filters = [f"--filter=label=com.docker.compose.{key}={labels[key]}" for key in labels]
        return self.docker.run("ps", "--all", "--quiet", *filters).strip()

    def edgepipe(self, *words: str, within_s: float) -> Any:
        """The document that `edgepipe WORDS --json` prints in a container beside the agents."""
        run = ("run", "--rm", "-T", "cli", *words, "--json")
        return json.loads(self.compose(*run, within_s=within_s))

    def logs(self) -> str:
        """The last lines of every service."""
        return self.compose("logs", "--no-color", "--tail", "30")


@contextmanager
def project(docker: Docker, name: str, settings: Mapping[str, str]) -> Iterator[Project]:
    """The project; when it is left, its containers, networks and volumes go."""
    found = Project(docker=docker, name=name, settings=settings)
    try:
        yield found
    finally:
        found.compose("down", "--volumes", "--remove-orphans", "--timeout", "20")
