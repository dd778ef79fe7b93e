"""What agents and servers say at /metrics is what the commands said of the same work."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster.conftest import Agent, Cluster, Edgepipe, start_agents
from cluster.in_this_process import Here, commands
from cluster.training_runs import Course, Run, course
from equivalence.tiny_models import CONFIGS, random_model
from prometheus_client.parser import text_string_to_metric_families
from serve.conftest import serving
from serve.small_model import write_small

DEADLINE_S = 30
NUM_TOKENS = 9
NUM_STEPS = 4
EXACT = ("--stages", 2, "--codec", "none", "--dtype", "float32")
TRAINING = ("forward", "backward", "update")
OF_A_STAGE = {f"edgepipe.agent.{name}" for name in ("session", "stage_servicer", "train_runner")}

here = pytest.fixture(commands)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one agent said, by name and labels."""

    values: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over all other labels."""
        wanted = labels.items()
        return sum(v for (key, at), v in self.values.items() if key == name and wanted <= set(at))

    def __sub__(self, before: Figures) -> Figures:
        gained = {key: v - before.values.get(key, 0) for key, v in self.values.items()}
        return Figures(values=gained)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Two agents that are scraped, and their log."""

    cluster: Cluster
    home: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = (self.home / f"{self.cluster.name}.log").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def figures(self) -> list[Figures]:
        """Of each agent."""
        return [scraped(self.address(agent)) for agent in self.cluster.agents]

    def address(self, agent: Agent) -> str:
        served = (line for line in self.lines if line["event"] == "metrics are served")
        return next(line["address"] for line in served if line["node"] == agent.name)


def scraped(address: str) -> Figures:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE_S) as response:
        text = response.read().decode()
    return Figures(
        values={
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    )


@pytest.fixture(scope="module")
def watched(edgepipe: Edgepipe) -> Iterator[Watched]:
    flags = ("--metrics", "127.0.0.1:0", "--log-level", "debug")
    with ExitStack() as stack:
        cluster = start_agents(stack, edgepipe, ["ned", "ola"], *flags)
        yield Watched(cluster=cluster, home=edgepipe.home)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Course:
    """The embedding is tied, so that its rows travel too."""
    return course(tmp_path_factory.mktemp("course"), random_model(CONFIGS["llama, tied"]))


@pytest.fixture(scope="module")
def small(session_home: Path) -> Path:
    return write_small(session_home / "measured" / "small")


@contextmanager
def gained(watched: Watched) -> Iterator[list[Figures]]:
    """What each agent's figures rise by meanwhile: there once the block is left."""
    before = watched.figures()
    found: list[Figures] = []
    yield found
    found += [after - first for after, first in zip(watched.figures(), before, strict=True)]


# ------------------------------------------------------------------------------------- figures


def test_a_run_is_counted(here: Here, watched: Watched, small: Path) -> None:
    words = ("run", small, "--prompt", "w5 w6 w7", "--raw", "--max-tokens", NUM_TOKENS, *EXACT)
    with gained(watched) as found:
        done = here(*words, "--nodes", "ned,ola", "--json", *watched.cluster.flags)
        assert done.code == 0, done.err
    first, last = found
    answer = done.json
    tokens, prompt = len(answer["token_ids"]), len(answer["prompt_token_ids"])
    assert tokens == NUM_TOKENS
    assert last("edgepipe_stage_sampled_tokens_total") == tokens
    assert first("edgepipe_stage_sampled_tokens_total") == 0
    for each in found:
        assert each("edgepipe_stage_rows_total", work="generate") >= prompt + tokens - 1
        assert each("edgepipe_stage_busy_seconds_total", work="generate") > 0
        assert each("edgepipe_stage_faults_total") == 0
    expect_what_one_sent_the_other_received(first, last)
    hidden_bytes = CONFIGS["llama, tied"]["hidden_size"] * 4
    rows = first("edgepipe_stage_rows_total", work="generate")
    sent = {"way": "sent", "peer": "ola", "content": "activations", "codec": "none"}
    assert first("edgepipe_link_payload_bytes_total", **sent) == rows * hidden_bytes
    assert last("edgepipe_link_frames_total", way="sent", peer="ned", content="tokens") > 0


def expect_what_one_sent_the_other_received(one: Figures, two: Figures) -> None:
    for name in ("edgepipe_link_frames_total", "edgepipe_link_payload_bytes_total"):
        for content in ("activations", "gradients", "tokens", "embedding"):
            for here, there in ((one, two), (two, one)):
                sent = here(name, way="sent", content=content)
                assert sent == there(name, way="received", content=content)


def test_a_training_is_counted(
    here: Here, watched: Watched, learned: Course, tmp_path: Path
) -> None:
    run = Run(path=tmp_path / "run")
    sets = ("--set", f"output={run.path}", "--set", f"steps={NUM_STEPS}")
    cut = ("--stages", 2, "--nodes", "ned,ola")
    with gained(watched) as found:
        done = here("train", learned.full, *sets, *cut, "--json", *watched.cluster.flags)
        assert done.code == 0, done.err
    lines = run.metrics
    assert len(lines) == NUM_STEPS
    for each in found:
        assert each("edgepipe_stage_steps_total", outcome="applied") == NUM_STEPS
        assert each("edgepipe_stage_steps_total", outcome="skipped") == 0
        assert each("edgepipe_stage_step_seconds_count") == NUM_STEPS
        assert 0 < each("edgepipe_stage_step_seconds_sum") <= sum(x["step_s"] for x in lines)
        rows = sum(line["num_tokens"] for line in lines)
        for work in ("forward", "backward"):
            assert each("edgepipe_stage_rows_total", work=work) == rows
        passes = each("edgepipe_stage_passes_total", work="forward")
        assert passes == each("edgepipe_stage_passes_total", work="backward") > 0
        assert each("edgepipe_stage_faults_total") == 0
    expect_what_one_sent_the_other_received(*found)
    sent = [
        each("edgepipe_link_payload_bytes_total", way="sent", content=content)
        for each in found
        for content in ("activations", "gradients")
    ]
    assert sum(sent) == sum(line["bytes"] for line in lines) > 0
    expect_busy(found, lines)


def expect_busy(found: list[Figures], lines: list[dict[str, Any]]) -> None:
    """The last step's update is reported with the step that follows, which there is not."""
    told_s = sum((1 - line["bubble"]) * line["step_s"] * len(found) for line in lines)
    name = "edgepipe_stage_busy_seconds_total"
    busy_s = sum(each(name, work=work) for each in found for work in TRAINING)
    updates_s = sum(each(name, work="update") for each in found)
    assert 0 <= busy_s - told_s + 1e-6 <= updates_s + 2e-6


def test_a_server_is_counted(watched: Watched, small: Path) -> None:
    flags = (*EXACT, "--nodes", "ned,ola", "--slots", 2, *watched.cluster.flags)
    with (
        gained(watched) as found,
        serving(watched.cluster.edgepipe, small, *flags) as server,
    ):
        for length in (3, NUM_TOKENS):
            body = {"model": "small", "prompt": "w5 w6", "max_tokens": length, "temperature": 0}
            answer = server.http("/v1/completions", body)
            assert answer.json["usage"]["completion_tokens"] == length
        generated = server.metric("edgepipe_generated_tokens_total")
        assert server.metric("edgepipe_token_seconds_count") == generated - 2
        assert server.metric("edgepipe_broken_answers_total") == 0
        expect_memory(watched.figures())
    assert sum(each("edgepipe_stage_sampled_tokens_total") for each in found) == generated
    assert generated == 3 + NUM_TOKENS


def expect_memory(figures: list[Figures]) -> None:
    for each in figures:
        assert each("edgepipe_stage_running") == each("edgepipe_device_leased") == 1
        assert each("edgepipe_stage_kv_bytes") > 0
        assert each("edgepipe_stage_weight_bytes") > 0
        resident = each("edgepipe_worker_resident_bytes")
        assert 0 < resident <= each("edgepipe_worker_peak_bytes") * 1.01
        assert 0 < each("edgepipe_device_memory_free_bytes") < each("edgepipe_device_memory_bytes")


def test_a_frozen_worker_holds_up_nobody(watched: Watched) -> None:
    agent = watched.cluster.agents[0]
    address = watched.address(agent)
    (worker,) = psutil.Process(agent.process.pid).children()
    worker.send_signal(signal.SIGSTOP)
    try:
        for _ in range(2):
            frozen = scraped(address)
            assert frozen("edgepipe_worker_up") == 0
            assert frozen("edgepipe_worker_starts_total") == 1
    finally:
        worker.send_signal(signal.SIGCONT)
    assert scraped(address)("edgepipe_worker_up") == 1


# ---------------------------------------------------------------------------------------- logs


def test_lines_of_a_stage_name_its_job_and_step(
    here: Here, watched: Watched, learned: Course, small: Path, tmp_path: Path
) -> None:
    begin = len(settled(watched))
    cut = ("--stages", 2, "--nodes", "ned,ola", *watched.cluster.flags)
    words = ("run", small, "--prompt", "w5", "--raw", "--max-tokens", 2)
    assert here(*words, "--json", *cut).code == 0
    sets = ("--set", f"output={tmp_path / 'run'}", "--set", f"steps={NUM_STEPS}")
    assert here("train", learned.full, *sets, "--json", *cut).code == 0
    lines = settled(watched)[begin:]
    jobs = {line["job"] for line in lines if line["event"] == "stage loaded"}
    assert len(jobs) == 2
    assert {line["job"] for line in lines if line["event"] == "lease released"} >= jobs
    for stage, node in enumerate(("ned", "ola")):
        own = [line for line in lines if line["node"] == node and "stage" in line]
        assert {line["job"] for line in own} == jobs
        assert {line["stage"] for line in own} == {stage}
        assert all(line["device"] == "cpu" and len(line["layers"]) == 2 for line in own)
        of_a_stage = [line for line in lines if line["logger"] in OF_A_STAGE]
        assert [line for line in of_a_stage if line["node"] == node and line not in own] == []
        steps = [line["step"] for line in own if line["event"] == "step done"]
        assert steps == list(range(1, NUM_STEPS + 1))
        (ended,) = [line for line in own if line["event"] == "stage ended" and "step" in line]
        assert ended["step"] == NUM_STEPS


def settled(watched: Watched) -> list[dict[str, Any]]:
    """All lines, once every stage that was loaded has ended, those of tests before among them."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        lines = watched.lines
        loaded, ended = (
            {(line["job"], line["stage"]) for line in lines if line["event"] == f"stage {what}"}
            for what in ("loaded", "ended")
        )
        if loaded <= ended:
            return lines
        assert time.monotonic() < deadline, f"stages did not end in time: {loaded - ended}"
        watched.figures()
