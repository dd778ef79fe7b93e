"""What a service manager hears of a real agent."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from cluster.conftest import Agent, Edgepipe, start_agents
from cluster.test_lifecycle import workers_of

DEADLINE_S = 30
WATCHDOG_S = 0.4
SILENT_S = 3 * WATCHDOG_S
"""After this nothing is under way any more."""
PING = ["WATCHDOG=1"]


class Ear:
    """The far end of NOTIFY_SOCKET."""

    def __init__(self, heard: socket.socket) -> None:
        self._heard = heard

    def next(self, within_s: float = DEADLINE_S) -> list[str]:
        self._heard.settimeout(within_s)
        return self._heard.recv(4096).decode().splitlines()

    def until_silent(self) -> None:
        """What was said meanwhile is little: it was about to be said."""
        said = []
        try:
            while len(said) < 3:
                said.append(self.next(SILENT_S))
        except TimeoutError:
            return
        raise AssertionError(said)


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    name = f"edgepipe-{secrets.token_hex(4)}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(f"\0{name}")
        yield Ear(heard)


@pytest.fixture
def edgepipe(session_home: Path) -> Edgepipe:
    return Edgepipe(home=session_home)


def worker_of(agent: Agent) -> psutil.Process:
    (worker,) = workers_of(agent.process)
    return worker


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no process can be stopped here")
def test_a_service_manager_hears_how_the_agent_is(edgepipe: Edgepipe, ear: Ear) -> None:
    with ExitStack() as stack:
        (rex,) = start_agents(stack, edgepipe, ["rex"]).agents
        first = ear.next()
        assert first == ["READY=1", "STATUS=rex offers cpu; 0 leased"]
        assert [ear.next(), ear.next()] == [PING, PING]

        for process in (psutil.Process(rex.process.pid), worker_of(rex)):
            process.suspend()
            ear.until_silent()
            process.resume()
            assert [ear.next(), ear.next()] == [PING, PING]

        worker_of(rex).kill()  # it is started again, and nobody is to blame for it
        assert [ear.next(), ear.next()] == [PING, PING]

        assert rex.stop() == 0
        words = ear.next()
        while words == PING:
            words = ear.next()
        assert words[0] == "STOPPING=1"
