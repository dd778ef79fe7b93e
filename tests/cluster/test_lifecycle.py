"""Processes come and go: nothing is left behind, and nobody waits for the dead."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, suppress

import psutil
from cluster.conftest import SMOLLM2, Edgepipe, start_agents

GONE_WITHIN_S = 5.0


def descendants(pid: int, at_least: int, deadline_s: float = 60.0) -> list[psutil.Process]:
    """The processes below `pid`, once there are so many."""
    process, deadline = psutil.Process(pid), time.monotonic() + deadline_s
    while len(found := process.children(recursive=True)) < at_least:
        assert time.monotonic() < deadline, f"only {len(found)} processes were started"
        with suppress(psutil.TimeoutExpired):
            process.wait(0.1)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of them end in time; a zombie whose parent is us counts as ended."""
    _, alive = psutil.wait_procs(processes, timeout=GONE_WITHIN_S)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_run_leaves_no_process_behind(edgepipe: Edgepipe) -> None:
    words = ("run", SMOLLM2, "--local", 2, "--prompt", "Count.", "--max-tokens", 4000)
    running = edgepipe.popen(*words)
    started = descendants(running.pid, at_least=4)
    running.kill()
    assert gone(started)
    running.communicate()


def test_sigterm_ends_an_agent_and_its_workers_with_code_0(edgepipe: Edgepipe) -> None:
    with ExitStack() as stack:
        (agent,) = start_agents(stack, edgepipe, ["eve"]).agents
        workers = descendants(agent.process.pid, at_least=1)
        assert agent.stop() == 0
        assert gone(workers)


def test_a_killed_supervisor_takes_its_workers_with_it(edgepipe: Edgepipe) -> None:
    with ExitStack() as stack:
        (agent,) = start_agents(stack, edgepipe, ["fay"]).agents
        workers = descendants(agent.process.pid, at_least=1)
        agent.process.kill()
        assert gone(workers)


def test_a_killed_worker_ends_the_run_at_once_and_is_started_again(edgepipe: Edgepipe) -> None:
    with ExitStack() as stack:
        cluster = start_agents(stack, edgepipe, ["gus", "hal"])
        words = ("run", SMOLLM2, "--prompt", "Count to a thousand.", "--max-tokens", 4000)
        running = edgepipe.popen(*words, "--temperature", 0, *cluster.flags)
        assert running.stdout is not None
        running.stdout.read(1)  # the first character of the answer
        (worker,) = descendants(cluster.agents[1].process.pid, at_least=1)
        worker.kill()
        begin = time.monotonic()
        _, err = running.communicate(timeout=20)
        assert time.monotonic() - begin < GONE_WITHIN_S
        assert running.returncode == 1
        assert "hal" in err.strip().splitlines()[-1]
        again = cluster.run("run", SMOLLM2, "--prompt", "Hi", "--max-tokens", 2, "--nodes", "gus")
        assert again.code == 0, again.err


def test_a_second_run_is_told_who_holds_the_devices(edgepipe: Edgepipe) -> None:
    with ExitStack() as stack:
        cluster = start_agents(stack, edgepipe, ["ivy"])
        words = ("run", SMOLLM2, "--prompt", "Count to a thousand.", "--max-tokens", 4000)
        running = edgepipe.popen(*words, "--temperature", 0, *cluster.flags)
        assert running.stdout is not None
        running.stdout.read(1)
        refused = cluster.run("run", SMOLLM2, "--prompt", "Hi", "--max-tokens", 2)
        assert refused.code == 1
        assert "leased to job" in refused.sentence
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20)
        after = cluster.run("run", SMOLLM2, "--prompt", "Hi", "--max-tokens", 2)
        assert after.code == 0, after.err
