"""Programs that use edgepipe, each a process of its own, over two agents that they share."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster.conftest import Cluster, Edgepipe, _interruptible, edgepipe, start_agents
from serve.small_model import write_small

__all__ = ["_interruptible", "edgepipe"]

DEADLINE_S = 90
HEAD = "import json, sys\nimport edgepipe\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Runs programs; each prints one JSON document."""

    edgepipe: Edgepipe
    folder: Path

    @contextmanager
    def started(self, text: str, **names: Any) -> Iterator[subprocess.Popen[str]]:
        """A program that finds these names; what it writes can be read."""
        given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        source = HEAD + given + textwrap.dedent(text)
        process = subprocess.Popen(
            [sys.executable, "-c", source],
            env=self.edgepipe.environment,
            cwd=self.folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def __call__(self, text: str, **names: Any) -> Any:
        with self.started(text, **names) as process:
            out, err = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, err
        assert not err
        return json.loads(out)


@pytest.fixture(scope="session")
def small(session_home: Path) -> Path:
    return write_small(session_home / "models-of-programs" / "small")


@pytest.fixture(scope="module")
def pair(edgepipe: Edgepipe) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["jan", "joe"])


@pytest.fixture
def programs(edgepipe: Edgepipe, tmp_path: Path) -> Programs:
    return Programs(edgepipe=edgepipe, folder=tmp_path)


def where(cluster: Cluster) -> dict[str, Any]:
    """What a program hands to connect()."""
    return {"cluster": cluster.name, "peers": [agent.peer for agent in cluster.agents]}
