"""Processes come and go: nothing is left behind, and nobody waits for the dead."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.conftest import Agent, Cluster, Command, Edgepipe, start_agents
from cluster.in_this_process import Here, commands
from cluster.slow_weights import with_slow_weights
from cluster.tiny_folder import write_tiny

from edgepipe.coordinator.emulated import emulate, emulated_deployment
from edgepipe.coordinator.nodes import Roster, Search, find_nodes
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.coordinator.progress import Silent
from edgepipe.core.profile import NodeProfile
from edgepipe.discovery.peers import parse_peers
from edgepipe.errors import LeaseHeld

DEADLINE_S = 60
GONE_WITHIN_S = 5
TOLD_WITHIN_S = 2
TTL_S = 3


@pytest.fixture(scope="module")
def tiny(session_home: Path) -> Path:
    return write_tiny(session_home / "models-here" / "tiny-for-long")


@pytest.fixture(scope="module")
def duo(edgepipe: Edgepipe, session_home: Path) -> Iterator[Cluster]:
    """Two agents whose leases are short."""
    settings = session_home / "short-leases.toml"
    settings.write_text(f"lease_ttl_s = {TTL_S}\n")
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, ["eve", "fay"], "--config", settings)


@pytest.fixture
def here(
    edgepipe: Edgepipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    return commands(edgepipe, monkeypatch, capsys)


ALL = ("--strategy", "equal")
"""On every device, however slow."""


@contextmanager
def long_run(edgepipe: Edgepipe, model: Path, *flags: object) -> Iterator[subprocess.Popen[str]]:
    """A run that has begun to answer, and would go on for a while."""
    words = ("run", model, "--prompt", "w1", "--max-tokens", 4000, *ALL)
    process = edgepipe.popen(*words, *flags)
    try:
        assert process.stdout is not None
        assert process.stdout.read(1) == "w"
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen[str]) -> Command:
    out, err = process.communicate(timeout=DEADLINE_S)
    return Command(code=process.returncode, out=out, err=err)


def short_run(here: Here, cluster: Cluster, model: Path) -> Command:
    return here("run", model, "--prompt", "w1", "--max-tokens", 3, "--json", *ALL, *cluster.flags)


def wait_until(happens: Callable[[], Any], within_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def processes_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its workers alone, also while they come and go."""
    found = []
    for child in processes_of(process):
        with suppress(psutil.NoSuchProcess):
            if "edgepipe.agent.start_worker" in child.cmdline():
                found.append(child)
    return found


def worker_of(agent: Agent) -> psutil.Process:
    (worker,) = processes_of(agent.process)
    return worker


def expect_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


def search(cluster: Cluster) -> Search:
    return Search(cluster=cluster.name, peers=parse_peers([a.peer for a in cluster.agents]))


def profiles(cluster: Cluster) -> dict[str, NodeProfile]:
    """The agents' own words."""

    async def ask() -> dict[str, NodeProfile]:
        async with asyncio.timeout(DEADLINE_S), find_nodes(search(cluster)) as roster:
            return {node.profile.name: node.profile for node in roster.nodes.values()}

    return asyncio.run(ask())


def leases(cluster: Cluster) -> dict[str, str]:
    """The job that holds a node's device, by node."""
    return {
        name: device.lease.job
        for name, node in profiles(cluster).items()
        for device in node.devices
        if device.lease is not None
    }


# -------------------------------------------------------------------------------- private agents


def test_a_killed_run_takes_its_private_agents_along(edgepipe: Edgepipe, tiny: Path) -> None:
    with long_run(edgepipe, tiny, "--local", 3) as run:
        children = processes_of(run)
        assert len(children) == 6  # a supervisor and a worker each
        run.kill()
        expect_gone(children)


@pytest.mark.parametrize("started", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_while_its_agents_start(edgepipe: Edgepipe, started: int) -> None:
    run = edgepipe.popen("bench", "decode", "--engine", "emulated", "--local", 3)
    wait_until(lambda: len(processes_of(run)) >= started)
    children = processes_of(run)
    run.kill()
    run.communicate()
    expect_gone(children)


# --------------------------------------------------------------------------------- shared agents


def test_a_second_run_is_told_who_holds_what_and_ctrl_c_frees_it_at_once(
    here: Here, duo: Cluster, tiny: Path
) -> None:
    with long_run(duo.edgepipe, tiny, *duo.flags) as first:
        held = leases(duo)
        assert set(held) == {"eve", "fay"}
        told = short_run(here, duo, tiny)
        whose = rf"cpu is leased to job {held['eve']} of \S+@\S+"
        sentence = rf"edgepipe: no device is usable: eve: {whose}; fay: {whose}\n"
        assert re.fullmatch(sentence, told.err), told.err
        assert (told.code, told.out) == (1, "")
        begin = time.monotonic()
        first.send_signal(signal.SIGINT)
        ended = finished(first)
        took_s = time.monotonic() - begin
        assert took_s < GONE_WITHIN_S, ended
    assert ended.code == 130
    assert "edgepipe:" not in ended.err
    assert "Traceback" not in ended.err
    assert leases(duo) == {}
    done = short_run(here, duo, tiny)
    assert done.code == 0, done.err


def test_of_two_jobs_at_once_one_wins_and_the_other_is_told_who(duo: Cluster) -> None:
    """Both planned while the devices were free."""
    looked = asyncio.Barrier(2)
    told = asyncio.Event()

    async def hold() -> str:
        async with find_nodes(search(duo)) as roster:
            await looked.wait()
            job = emulated_job(roster)
            try:
                async with open_pipeline(job, roster.nodes, Silent()):
                    await told.wait()
            except LeaseHeld as error:
                told.set()
                return str(error)
        return job.job

    async def race() -> list[str]:
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.gather(hold(), hold())

    winner, sentence = sorted(asyncio.run(race()), key=len)
    assert re.fullmatch(rf"(eve|fay): cpu is leased to job {winner} of \S+@\S+, .*", sentence)
    assert leases(duo) == {}


def emulated_job(roster: Roster) -> Any:
    return emulated_deployment(
        emulate(roster, num_stages=2, stage_s=[0.0]),
        num_slots=1,
        max_positions=64,
        prefill_chunk=16,
        codec=None,
    )


def test_a_lease_outlasts_its_time_while_weights_are_sent(duo: Cluster) -> None:
    async def start() -> None:
        async with asyncio.timeout(DEADLINE_S), find_nodes(search(duo)) as roster:
            job = with_slow_weights(emulated_job(roster), 1, takes_s=TTL_S + 1)
            async with open_pipeline(job, roster.nodes, Silent()):
                pass

    asyncio.run(start())


@pytest.mark.slow
def test_a_killed_run_frees_its_devices_when_the_leases_expire(
    here: Here, duo: Cluster, tiny: Path
) -> None:
    with long_run(duo.edgepipe, tiny, *duo.flags) as run:
        run.kill()
        assert set(leases(duo)) == {"eve", "fay"}
        wait_until(lambda: leases(duo) == {}, within_s=TTL_S + TOLD_WITHIN_S)
    done = short_run(here, duo, tiny)
    assert done.code == 0, done.err


def test_a_killed_worker_is_told_at_once_and_replaced(here: Here, duo: Cluster, tiny: Path) -> None:
    eve, _ = duo.agents
    with long_run(duo.edgepipe, tiny, *duo.flags) as run:
        begin = time.monotonic()
        worker_of(eve).kill()
        done = finished(run)
        took_s = time.monotonic() - begin
        assert took_s < GONE_WITHIN_S, done
    assert done.code == 1
    assert "Traceback" not in done.err
    *_, last = done.err.splitlines()
    assert last.startswith("edgepipe: eve (cpu): its process died or ")
    assert done.err.count("edgepipe:") == 1
    assert leases(duo) == {}
    wait_until(lambda: all(node.devices for node in profiles(duo).values()))
    again = short_run(here, duo, tiny)
    assert [stage["node"] for stage in again.json["plan"]] == ["eve", "fay"]


def test_an_agent_that_is_stopped_while_it_starts(edgepipe: Edgepipe) -> None:
    words = ("agent", "--listen", "127.0.0.1:0", "--device", "cpu", "--no-mdns", "--name", "gus")
    agent = edgepipe.popen(*words)
    wait_until(lambda: workers_of(agent))  # before it, an import may have started something else
    workers = workers_of(agent)
    agent.terminate()
    done = finished(agent)
    assert (done.code, done.out, done.err.count("Traceback")) == (0, "", 0), done.err
    expect_gone(workers)


def test_the_ends_of_agents_leave_no_worker_behind(duo: Cluster) -> None:
    """One is asked to stop, the other is killed."""
    eve, fay = duo.agents
    workers = [worker_of(eve), worker_of(fay)]
    assert eve.stop() == 0
    fay.process.kill()
    expect_gone(workers)
