"""An agent that is told to stop while a job is starting on it: sending, loading, or waiting."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster.conftest import Agent, Cluster, Edgepipe
from cluster.slow_weights import OnSending, with_slow_weights
from cluster.test_leaving import WHY, Ended, agents, expect_told, log_of, told_to_stop
from cluster.test_lifecycle import ALL, DEADLINE_S, emulated_job, search, wait_until
from cluster.tiny_folder import write_folder
from equivalence.tiny_models import CONFIGS, random_model

from edgepipe.coordinator.models import resolve
from edgepipe.coordinator.nodes import find_nodes
from edgepipe.coordinator.parts import build_parts
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.engine.torch.probe import model_shape
from edgepipe.errors import NodeLeaving

STOPPED_WITHIN_S = 4


@pytest.fixture
def pair(edgepipe: Edgepipe) -> Iterator[Cluster]:
    with agents(edgepipe, 0, "pia", "quy") as pair:
        yield pair


async def started(pair: Cluster, told: Agent) -> None:
    """Start a job whose second stage gets its weights slowly; have an agent told meanwhile."""
    loop = asyncio.get_running_loop()
    stopping: list[asyncio.Future[tuple[int, float]]] = []

    def begun() -> None:
        stopping.append(loop.run_in_executor(None, told_to_stop, told))

    async with asyncio.timeout(DEADLINE_S), find_nodes(search(pair)) as roster:
        job = with_slow_weights(emulated_job(roster), 1, takes_s=8)
        try:
            async with open_pipeline(job, roster.nodes, OnSending(begun)):
                pass
        finally:
            code, took_s = await stopping[0]
            assert (code, took_s < STOPPED_WITHIN_S) == (0, True), took_s


async def test_an_agent_that_weights_are_sent_to(pair: Cluster) -> None:
    with pytest.raises(NodeLeaving, match=f"^quy: {WHY}$"):
        await started(pair, pair.agents[1])


async def test_an_agent_whose_stage_waits_for_the_others(pair: Cluster) -> None:
    with pytest.raises(NodeLeaving, match=rf"^pia \(cpu\): {WHY}$"):
        await started(pair, pair.agents[0])


@pytest.mark.skipif(sys.platform != "linux", reason="needs leases of files")
def test_an_agent_that_loads(edgepipe: Edgepipe, session_home: Path) -> None:
    model = random_model(CONFIGS["llama, tied"], seed=7)
    folder = write_folder(session_home / "models-here" / "tiny-to-load", model)
    with agents(edgepipe, 0, "rex") as one, held(weights_of(folder, edgepipe)) as wanted:
        run = edgepipe.popen("run", folder, "--prompt", "w1", *ALL, *one.flags)
        with contextlib.closing(Ended(run)):
            wait_until(lambda: wanted or run.poll() is not None)
            code, took_s = told_to_stop(one.agents[0])
            assert (code, took_s < STOPPED_WITHIN_S) == (0, True), took_s
            expect_told(run, "rex")
        assert "stage loaded" not in log_of(one)


def weights_of(folder: Path, edgepipe: Edgepipe) -> Path:
    """One part of a model whose parts the agents have."""
    model = resolve(str(folder), home=edgepipe.home)
    names = model_shape(model.name, model.config).parameters
    cache = edgepipe.home / "weights"
    cache.mkdir(exist_ok=True)
    parts = build_parts(model.tensors(), names, home=edgepipe.home)
    return [part.write(cache) for part in parts][-1]


@contextlib.contextmanager
def held(path: Path) -> Iterator[list[int]]:
    """Whoever opens the file waits until this ends; it then stands in the list that one did."""
    wanted: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: wanted.append(number))
    try:
        with path.open("r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            yield wanted
    finally:
        signal.signal(signal.SIGIO, before)
