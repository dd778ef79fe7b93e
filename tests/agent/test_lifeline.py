"""Real processes: this test ── parent ── child, which must not outlive its parent.

Each of them holds the write end of a pipe of its own, or of none; when the last holder is gone,
the reader sees the end of the file. That is how a test knows that a process is gone.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import pytest

DEADLINE_S = 20
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")

CHILD = """
import os, sys, threading
from edgepipe.agent.lifeline import Lifeline
alive = int(sys.argv[1])
def obey(line):
    if line == b"fail\\n":
        raise ValueError(line)
    os.write(alive, b"heard " + line)
Lifeline(obey)
os.write(alive, b"ready\\n")
threading.Event().wait()
"""
ENDING = """
import sys, threading
from edgepipe.agent.lifeline import Lifeline
told = threading.Event()
Lifeline(lambda line: told.set())
told.wait()
sys.exit(3)
"""
PARENT = """
import subprocess, sys, threading
code, alive, stdin = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
subprocess.Popen(
    [sys.executable, "-c", code, str(alive)],
    stdin=subprocess.PIPE if stdin < 0 else stdin,
    pass_fds=[alive],
    stderr=subprocess.DEVNULL,
)
threading.Event().wait()
"""


@dataclass
class Pipe:
    reader: int
    writer: int

    @classmethod
    def open(cls, stack: ExitStack) -> Pipe:
        pipe = cls(*os.pipe())
        for end in (pipe.reader, pipe.writer):
            stack.callback(_close, end)
        return pipe

    def line(self) -> bytes:
        """The next line; b"" once nobody holds the write end any more."""
        found = b""
        while not found.endswith(b"\n"):
            ready, _, _ = select.select([self.reader], [], [], DEADLINE_S)
            assert ready, "nothing came in time"
            if not (byte := os.read(self.reader, 1)):
                break
            found += byte
        return found


def _close(descriptor: int) -> None:
    with suppress(OSError):
        os.close(descriptor)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start_child(stack: ExitStack) -> tuple[subprocess.Popen[bytes], Pipe]:
    """A child of this process that listens."""
    alive = Pipe.open(stack)
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(alive.writer)],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[alive.writer],
    )
    stack.enter_context(child)
    stack.callback(child.kill)
    os.close(alive.writer)
    assert alive.line() == b"ready\n"
    return child, alive


def start_parent(stack: ExitStack, *, stdin: int = -1) -> tuple[subprocess.Popen[bytes], Pipe]:
    """A parent, and the pipe of its child, which listens."""
    alive = Pipe.open(stack)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(alive.writer), str(stdin)],
        pass_fds=[alive.writer, *([stdin] if stdin >= 0 else [])],
    )
    stack.enter_context(parent)
    stack.callback(parent.kill)
    os.close(alive.writer)
    assert alive.line() == b"ready\n"
    return parent, alive


def test_a_child_hears_every_line_and_lives_as_long_as_its_standard_input(stack: ExitStack) -> None:
    child, alive = start_child(stack)
    assert child.stdin is not None
    child.stdin.write(b"one\ntwo\n")
    child.stdin.flush()
    assert [alive.line(), alive.line()] == [b"heard one\n", b"heard two\n"]
    assert child.poll() is None
    child.stdin.close()
    assert child.wait(DEADLINE_S) == 0


def test_a_child_whose_ear_fails_does_not_live_on_deaf(stack: ExitStack) -> None:
    child, _ = start_child(stack)
    assert child.stdin is not None
    child.stdin.write(b"fail\n")
    child.stdin.flush()
    child.wait(DEADLINE_S)


def test_a_child_may_end_by_itself_while_it_listens(stack: ExitStack) -> None:
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = stack.enter_context(subprocess.Popen([sys.executable, "-c", ENDING], **pipes))
    assert child.stdin is not None
    assert child.stderr is not None
    child.stdin.write(b"end\n")
    child.stdin.flush()
    assert child.wait(DEADLINE_S) == 3
    assert child.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_parent_takes_its_child_along(stack: ExitStack, number: signal.Signals) -> None:
    """Both hold the write end: it closes when the second of them is gone."""
    parent, alive = start_parent(stack)
    parent.send_signal(number)
    assert parent.wait(DEADLINE_S) == -number
    assert alive.line() == b""


@LINUX
def test_the_kernel_ends_a_child_whose_standard_input_somebody_else_holds_open(
    stack: ExitStack,
) -> None:
    held = Pipe.open(stack)
    parent, alive = start_parent(stack, stdin=held.reader)
    parent.kill()
    assert parent.wait(DEADLINE_S) == -signal.SIGKILL
    assert alive.line() == b""


@LINUX
def test_a_child_that_is_stopped_dies_with_its_parent_too(stack: ExitStack) -> None:
    """As one that is stuck in native code: its own threads run no Python."""
    alive = Pipe.open(stack)
    stuck = CHILD.replace("threading.Event().wait()", "os.kill(os.getpid(), 19)")
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, stuck, str(alive.writer), "-1"], pass_fds=[alive.writer]
    )
    stack.enter_context(parent)
    stack.callback(parent.kill)
    os.close(alive.writer)
    assert alive.line() == b"ready\n"
    parent.kill()
    assert alive.line() == b""
