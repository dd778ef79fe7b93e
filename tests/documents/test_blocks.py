"""What the documents say to type works as it is written, block after block.

A comment before a block says what else to do with it:

    <!-- test: skip (why) -->        it cannot run here
    <!-- test: slow -->              it takes minutes
    <!-- test: background (text) --> it runs until the document ends; it is ready once it says so
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster.conftest import Edgepipe, end, start_agents

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "docs/serving.md", "docs/training.md", "docs/troubleshooting.md")
LINKED = (
    "docs/how-it-works.md",
    "docs/comparison.md",
    "docs/metrics.md",
    "agents/README.md",
    "docker/README.md",
)
BLOCK = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]*) -->\n)?```(?P<language>\w*)\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"^(?:edgepipe|make|pip|python3?|docker|sudo|curl|import|from) ", re.MULTILINE)
DEADLINE_S = 280
API_PORT = 8000


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Something to type."""

    document: str
    line: int
    language: str
    code: str
    mark: str

    @property
    def reason(self) -> str:
        """What stands in parentheses behind the mark's word."""
        return self.mark.partition("(")[2].removesuffix(")")


def blocks() -> Iterator[Block]:
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        for found in BLOCK.finditer(text):
            yield Block(
                document=document,
                line=text.count("\n", 0, found.start("code")),
                language=found["language"],
                code=found["code"],
                mark=found["mark"] or "",
            )


RUNNABLE = [block for block in blocks() if block.language in {"sh", "console", "python"}]


def test_every_command_stands_in_a_block_that_is_run() -> None:
    left = [block for block in blocks() if block not in RUNNABLE and COMMAND.search(block.code)]
    assert left == []
    words = {block.mark.split(" ")[0] for block in RUNNABLE}
    assert words <= {"", "skip", "slow", "background"}
    assert all(block.reason for block in RUNNABLE if block.mark.startswith(("skip", "background")))


@dataclass(slots=True, kw_only=True)
class Reader:
    """Somebody who types the blocks of one document into a shell, in a copy of the checkout."""

    folder: Path
    environment: dict[str, str]
    agents: dict[str, str]
    stack: ExitStack

    def environment_of(self, block: Block) -> dict[str, str]:
        """With the agents of the LAN, unless the block brings machines of its own."""
        own = re.search("--local|--cluster-file|local=", block.code)
        return self.environment if own else {**self.environment, **self.agents}

    def run(self, block: Block) -> str:
        words = [sys.executable, "-c", block.code]
        if block.language != "python":
            words = ["bash", "-euo", "pipefail", "-c", typed(block)]
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment_of(block),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begin(self, block: Block) -> None:
        """Start what goes on, and wait until it is ready."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", API_PORT)) == 0:
                pytest.skip(f"something else listens on port {API_PORT}")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {block.code.strip()}"],
            cwd=self.folder,
            env=self.environment_of(block),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(end, process)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if block.reason in line:
                return
        raise AssertionError("".join(said))


def typed(block: Block) -> str:
    """What is typed: of a console, what follows `$`, up to the line that goes on no more."""
    if block.language == "sh":
        return block.code
    return "\n".join(re.findall(r"^\$ ((?:.*\\\n)*.*)$", block.code, re.MULTILINE))


def answered(block: Block) -> list[str]:
    """What a console shows below."""
    rest = re.sub(r"^\$ (?:.*\\\n)*.*$", "", block.code, flags=re.MULTILINE)
    return [line.rstrip() for line in rest.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def readers(
    session_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Reader]]:
    """One for each document, with the commands on the PATH and two agents to be found."""
    commands = tmp_path_factory.mktemp("bin")
    for name, words in {"edgepipe": "-m edgepipe", "python": ""}.items():
        file = commands / name
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        file.chmod(0o755)
    edgepipe = Edgepipe(home=session_home)
    environment = {
        **edgepipe.environment,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path_factory.mktemp("user")),
    }
    found: dict[str, Reader] = {}
    with ExitStack() as stack:
        cluster = start_agents(stack, edgepipe, ["ned", "oli"])
        agents = {
            "EDGEPIPE_CLUSTER": cluster.name,
            "EDGEPIPE_PEER": ",".join(agent.peer for agent in cluster.agents),
        }
        for document in DOCUMENTS:
            folder = tmp_path_factory.mktemp("checkout")
            shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("runs"))
            own = stack.enter_context(ExitStack())
            found[document] = Reader(
                folder=folder, environment=environment, agents=agents, stack=own
            )
        yield found


def marked(block: Block) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if block.mark == "slow" else []


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{block.document}:{block.line}", marks=marked(block))
        for block in RUNNABLE
    ],
)
def test_a_block_does_what_it_says(block: Block, readers: dict[str, Reader]) -> None:
    if block.mark.startswith("skip"):
        pytest.skip(block.reason)
    for document, other in readers.items():
        if document != block.document:
            other.stack.close()
    reader = readers[block.document]
    if block.mark.startswith("background"):
        reader.begin(block)
        return
    said = {line.rstrip() for line in reader.run(block).splitlines()}
    if block.language == "console":
        assert [line for line in answered(block) if line not in said] == []


def test_every_link_leads_somewhere() -> None:
    for document in (*DOCUMENTS, *LINKED):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert ((ROOT / document).parent / target).exists(), f"{document}: {target}"
