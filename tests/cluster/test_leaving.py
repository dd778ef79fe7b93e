"""An agent that is told to stop: its jobs may end, then they are ended, and told why."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from cluster.conftest import Agent, Cluster, Edgepipe, start_agents
from cluster.test_lifecycle import (
    DEADLINE_S,
    expect_gone,
    finished,
    long_run,
    processes_of,
    search,
    wait_until,
)
from cluster.tiny_folder import write_tiny
from cluster.training_runs import Course, course
from equivalence.tiny_models import CONFIGS, random_model

from edgepipe.coordinator.leases import LeaseClient
from edgepipe.coordinator.nodes import LOOPBACK_HOSTS, find_nodes
from edgepipe.core.cluster import Appeared, Withdrawn
from edgepipe.core.lease import Granted
from edgepipe.discovery.browser import Browser
from edgepipe.errors import NodeLeaving

GRACE_S = 2
STOPPED_WITHIN_S = GRACE_S + 8
WHY = "its agent stops; run it again without it, or once it is back"


@pytest.fixture(scope="module")
def tiny(session_home: Path) -> Path:
    return write_tiny(session_home / "models-here" / "tiny-to-leave")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course(tmp_path_factory.mktemp("lesson"), random_model(CONFIGS["llama, tied"]))


@contextmanager
def agents(edgepipe: Edgepipe, grace_s: float, *words: str) -> Iterator[Cluster]:
    """Agents by their names, and flags for all of them."""
    names = [word for word in words if not word.startswith("-")]
    flags = [word for word in words if word.startswith("-")]
    settings = edgepipe.home / f"grace-of-{grace_s}.toml"
    settings.write_text(f"grace_s = {grace_s}\n")
    with ExitStack() as stack:
        yield start_agents(stack, edgepipe, names, "--config", settings, *flags)


def told_to_stop(agent: Agent) -> tuple[int, float]:
    """Its exit code, and the seconds it took."""
    begin = time.monotonic()
    code = agent.stop()
    return code, time.monotonic() - begin


def expect_told(process: subprocess.Popen[str], name: str) -> None:
    done = finished(process)
    assert done.code == 1
    assert done.sentence == f"edgepipe: {name} (cpu): {WHY}", done.err
    assert done.err.count("edgepipe:") == 1
    assert "Traceback" not in done.err


class Ended:
    """Kills a command that is still there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def log_of(cluster: Cluster) -> str:
    return (cluster.edgepipe.home / f"{cluster.name}.log").read_text()


def test_a_run_that_goes_on_for_too_long_is_ended_and_told_why(
    edgepipe: Edgepipe, tiny: Path
) -> None:
    with (
        agents(edgepipe, GRACE_S, "ivo", "jon") as pair,
        long_run(edgepipe, tiny, *pair.flags) as run,
    ):
        workers = processes_of(pair.agents[0].process)
        code, took_s = told_to_stop(pair.agents[0])
        assert (code, GRACE_S <= took_s < STOPPED_WITHIN_S) == (0, True), took_s
        expect_told(run, "ivo")
        expect_gone(workers)
        code, took_s = told_to_stop(pair.agents[1])  # nothing is leased there any more
        assert (code, took_s < GRACE_S) == (0, True), took_s


def test_a_training_is_ended_and_told_why(edgepipe: Edgepipe, lesson: Course) -> None:
    run = lesson.folder / "left"
    settings = (f"output={run}", "steps=100000", "run.checkpoint_every=3")
    words = [word for setting in settings for word in ("--set", setting)]
    with agents(edgepipe, GRACE_S, "kai", "leo") as pair:
        training = edgepipe.popen("train", lesson.full, *words, "--stages", 2, *pair.flags)
        with contextlib.closing(Ended(training)):
            wait_until(lambda: (run / "metrics.jsonl").exists() or training.poll() is not None)
            code, took_s = told_to_stop(pair.agents[1])
            assert (code, GRACE_S <= took_s < STOPPED_WITHIN_S) == (0, True), took_s
            expect_told(training, "leo")


def test_a_measurement_is_ended_and_told_why(edgepipe: Edgepipe, tiny: Path) -> None:
    with agents(edgepipe, 0, "max") as one:
        measuring = edgepipe.popen("plan", tiny, "--fresh-profile", *one.flags)
        with contextlib.closing(Ended(measuring)):
            wait_until(lambda: "lease granted" in log_of(one) or measuring.poll() is not None)
            code, took_s = told_to_stop(one.agents[0])
            assert (code, took_s < STOPPED_WITHIN_S) == (0, True), took_s
            done = finished(measuring)
            assert done.code == 1
            assert done.sentence.endswith(f" (not measured: max (cpu): {WHY})"), done.err


async def test_it_withdraws_and_takes_nothing_new_and_goes_once_its_last_job_is_over(
    edgepipe: Edgepipe,
) -> None:
    with agents(edgepipe, 60, "nan", "--mdns") as one:
        (nan,) = one.agents
        async with (
            asyncio.timeout(DEADLINE_S),
            Browser(LOOPBACK_HOSTS) as browser,
            leased(one) as (lease, granted),
        ):
            key = await sighted(browser, "nan")
            nan.process.send_signal(signal.SIGTERM)
            while not isinstance(event := await anext(browser), Withdrawn) or event.key != key:
                pass
            with pytest.raises(NodeLeaving, match=r"^nan: its agent stops; leave it out, or wait"):
                await lease.acquire("another")
            assert nan.process.poll() is None
            await lease.release(granted.fence)
            assert await asyncio.to_thread(nan.process.wait, DEADLINE_S) == 0


async def test_a_second_signal_ends_it_at_once(edgepipe: Edgepipe) -> None:
    with agents(edgepipe, 600, "oto") as one:
        (oto,) = one.agents
        async with leased(one):
            for _ in range(2):
                oto.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(wait_until, lambda: "agent leaves" in log_of(one))
            assert await asyncio.to_thread(oto.process.wait, STOPPED_WITHIN_S) == 0


@asynccontextmanager
async def leased(one: Cluster) -> AsyncIterator[tuple[LeaseClient, Granted]]:
    """The device of an agent, for nothing."""
    async with find_nodes(search(one)) as roster:
        (node,) = roster.usable
        lease = LeaseClient(who=node.profile.name, device="cpu", channel=node.channel)
        yield lease, await lease.acquire("held")


async def sighted(browser: Browser, name: str) -> str:
    """The key of a node, once it is seen."""
    async for event in browser:
        if isinstance(event, Appeared) and event.sighting.name == name:
            return event.sighting.key
    raise AssertionError(name)
