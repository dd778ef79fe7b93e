"""A server outlives its agents: it plans anew over those that are left, and those that return."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from cluster.conftest import Agent, Cluster, Edgepipe, start_again, start_agents
from openai import OpenAI
from serve.conftest import Served, serving
from serve.small_model import CONTEXT

EXACT = ("--slots", 2, "--queue", 4, "--codec", "none", "--dtype", "float32")
BACK_S = 45
"""An agent that starts imports torch, on a machine that other tests keep busy."""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def trio(stack: ExitStack, edgepipe: Edgepipe) -> Cluster:
    return start_agents(stack, edgepipe, ["ivy", "kay", "lea"])


def wait_until(happens: Callable[[], Any], within_s: float = BACK_S) -> None:
    """Asks again and again: what is asked over HTTP takes its time."""
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"


def nodes(server: Served) -> list[str]:
    """Of the stages, in ring order; none while there is no pipeline."""
    health = server.http("/health")
    assert health.status == (200 if health.json["status"] == "ok" else 503)
    return [stage["node"] for stage in health.json.get("stages", [])]


def answer(client: OpenAI) -> str:
    return (
        client.completions.create(model="small", prompt="w5 w6", max_tokens=12, temperature=0)
        .choices[0]
        .text
    )


@contextmanager
def a_long_answer(client: OpenAI) -> Iterator[openai.Stream[openai.types.Completion]]:
    with client.completions.create(
        model="small", prompt="w5", max_tokens=CONTEXT - 10, stream=True
    ) as stream:
        assert len(list(islice(stream, 3))) == 3
        yield stream


def kill(*agents: Agent) -> None:
    for agent in agents:
        agent.process.send_signal(signal.SIGKILL)
    for agent in agents:
        agent.process.wait()


def log_of(edgepipe: Edgepipe) -> str:
    return (edgepipe.home / "small-server.log").read_text()


def test_a_killed_agent_is_done_without_and_used_again_once_it_is_back(
    edgepipe: Edgepipe, small: Path, stack: ExitStack
) -> None:
    cluster = trio(stack, edgepipe)
    lea = cluster.agents[2]
    server = stack.enter_context(serving(edgepipe, small, "--stages", 3, *EXACT, *cluster.flags))
    client = stack.enter_context(server.client())
    text = answer(client)
    assert sorted(nodes(server)) == ["ivy", "kay", "lea"]

    with a_long_answer(client) as stream:
        kill(lea)
        with pytest.raises(openai.APIError, match="The pipeline broke"):
            list(stream)
    assert answer(client) == text
    assert sorted(nodes(server)) == ["ivy", "kay"]
    assert server.metric("edgepipe_stages") == 2
    assert server.metric("edgepipe_broken_answers_total") == 1
    assert "--stages 3 is given up: 3 stages need 3 devices" in log_of(edgepipe)

    start_again(stack, cluster, lea)
    wait_until(lambda: len(nodes(server)) == 3)
    assert answer(client) == text
    metrics = server.http("/metrics").body.decode()
    assert 'edgepipe_replans_total{reason="lost"} 1.0' in metrics
    assert 'edgepipe_replans_total{reason="joined"} 1.0' in metrics
    assert server.metric("edgepipe_stages") == 3


def test_who_waits_goes_on_waiting_until_an_agent_is_back_or_the_server_stops(
    edgepipe: Edgepipe, small: Path, stack: ExitStack
) -> None:
    cluster = start_agents(stack, edgepipe, ["ivy", "kay"])
    server = stack.enter_context(serving(edgepipe, small, "--stages", 2, *EXACT, *cluster.flags))
    client = stack.enter_context(server.client(timeout=2 * BACK_S))
    text = answer(client)
    threads = stack.enter_context(ThreadPoolExecutor(6))
    with a_long_answer(client), a_long_answer(client):
        waiting = [threads.submit(answer, client) for _ in range(2)]
        wait_until(lambda: server.metric("edgepipe_waiting") == 2)
        kill(*cluster.agents)
        wait_until(lambda: server.metric("edgepipe_running") == 0)
    assert nodes(server) == []
    assert server.http("/v1/models").status == 200
    waiting += [threads.submit(answer, client) for _ in range(2)]
    wait_until(lambda: "nothing answers there" in server.http("/health").json["reason"])
    assert [each.done() for each in waiting] == [False] * 4

    start_again(stack, cluster, cluster.agents[1])
    assert [each.result() for each in waiting] == [text] * 4
    assert nodes(server) == ["kay"]

    kill(cluster.agents[1])
    wait_until(lambda: not nodes(server))
    lost = threads.submit(answer, client)
    wait_until(lambda: server.metric("edgepipe_waiting") == 1)
    server.process.terminate()
    with pytest.raises(openai.InternalServerError, match="The server is stopping"):
        lost.result()
    assert server.process.wait(timeout=10) == 0


@pytest.mark.slow
def test_a_killed_worker_is_done_without_until_it_is_back(
    edgepipe: Edgepipe, small: Path, stack: ExitStack
) -> None:
    cluster = start_agents(stack, edgepipe, ["ivy", "kay"])
    split = ("--split", 1, "--nodes", "kay,ivy")
    server = stack.enter_context(serving(edgepipe, small, *split, *EXACT, *cluster.flags))
    client = stack.enter_context(server.client())
    text = answer(client)
    for worker in psutil.Process(cluster.agents[0].process.pid).children(recursive=True):
        worker.kill()
    wait_until(lambda: nodes(server) == ["kay"])
    assert answer(client) == text
    assert "--split 1 --nodes kay,ivy is given up: " in log_of(edgepipe)
    wait_until(lambda: nodes(server) == ["kay", "ivy"])
    assert server.http("/health").json["stages"][0]["layers"] == [0, 1]
    assert answer(client) == text


@pytest.mark.slow
def test_a_faster_agent_that_appears_is_moved_to(
    edgepipe: Edgepipe, small: Path, stack: ExitStack
) -> None:
    cluster = start_agents(stack, edgepipe, ["ivy", "kay"], "--slowdown", 50)
    kay = cluster.agents[1]
    kill(kay)
    server = stack.enter_context(serving(edgepipe, small, *EXACT, *cluster.flags))
    client = stack.enter_context(server.client())
    text = answer(client)
    assert nodes(server) == ["ivy"]
    start_again(stack, cluster, kay)
    wait_until(lambda: nodes(server) == ["kay"])
    assert answer(client) == text
