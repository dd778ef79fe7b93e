"""A real `edgepipe serve` over private agents, which the tests of a module share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import Cluster, Edgepipe, _interruptible, edgepipe, end, start_agents
from openai import OpenAI
from serve.small_model import write_small

__all__ = ["_interruptible", "edgepipe"]

DEADLINE_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What HTTP gave back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found = self.json
        assert set(found) == {"error"}
        assert set(found["error"]) == {"message", "type", "param", "code"}
        return dict(found["error"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server and its process."""

    process: subprocess.Popen[str]
    host: str
    port: int
    model: str
    ready: dict[str, Any]

    def client(self, **options: Any) -> OpenAI:
        settings: dict[str, Any] = {"api_key": "none", "max_retries": 0, "timeout": DEADLINE_S}
        return OpenAI(base_url=self.ready["url"], **{**settings, **options})

    def connect(self) -> HTTPConnection:
        return HTTPConnection(self.host, self.port, timeout=DEADLINE_S)

    def http(
        self, path: str, body: Any = None, *, method: str | None = None, **headers: str
    ) -> Answered:
        """One request; `body` is sent as JSON unless it is bytes."""
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection = self.connect()
        try:
            kind = {"Content-Type": "application/json"} if raw is not None else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(
                method or ("GET" if raw is None else "POST"), path, raw, {**kind, **named}
            )
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answered(status=response.status, headers=names, body=response.read())
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self.http("/metrics").body.decode().splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)


@contextmanager
def serving(edgepipe: Edgepipe, model: Path, *flags: object) -> Iterator[Served]:
    """A server of a model, from when it is ready."""
    words = ("serve", model, "--port", 0, "--json", *flags)
    with ExitStack() as stack:
        log = stack.enter_context((edgepipe.home / f"{model.name}-server.log").open("a"))
        process = edgepipe.popen(*words, stderr=log)
        stack.callback(end, process)
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield Served(
            process=process,
            host=ready["host"],
            port=ready["port"],
            model=ready["model"],
            ready=ready,
        )


@pytest.fixture(scope="session")
def small(session_home: Path) -> Path:
    return write_small(session_home / "models-here" / "small")


@pytest.fixture(scope="session")
def pair(edgepipe: Edgepipe) -> Iterator[Cluster]:
    """Two agents that the servers use one after another."""
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["sue", "una"])
