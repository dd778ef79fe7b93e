"""Many clients against few slots: every answer is right, no slot leaks, memory stays flat.

    .venv/bin/python -m bench.serve_soak [MODEL] [--seconds 120] [--clients 64] [--slots 8] [--json]

MODEL (default smollm2-135m) is served by two private agents, or, with --peer, by agents that run
already. A third of the clients hang up midway, some read slowly. Exits 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import psutil

from bench.soak_clients import Question, Server, Tally, client, questions

NUM_QUESTIONS = 12
WARM_SHARE = 0.4
"""Memory is compared from this part of the time on: caches have filled by then."""
MAX_GROWTH = 0.03
IDLE_WITHIN_S = 10.0


def main() -> int:
    """Soak, report, and say whether all bounds hold."""
    options = _options()
    with _served(options) as (process, ready):
        server = Server(host=ready["host"], port=ready["port"], model=ready["model"])
        found = asyncio.run(_soak(server, process, options))
        process.terminate()
        found["exit_code"] = process.wait(timeout=20)
    missed = _missed(found)
    sys.stdout.write(json.dumps({**found, "missed": missed}, indent=2) + "\n")
    return 1 if missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--longest", type=int, default=48, help="tokens of the longest answer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", action="append", default=[])
    return parser.parse_args()


@contextmanager
def _served(
    options: argparse.Namespace,
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    where = [word for peer in options.peer for word in ("--peer", peer)] or ["--local", "2"]
    words = ("serve", options.model, "--port", "0", "--json", "--slots", str(options.slots))
    flags = ("--queue", str(options.queue), "--codec", "none", "--dtype", "float32", *where)
    process = subprocess.Popen(
        [sys.executable, "-m", "edgepipe", *words, *flags], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit(process.wait())
        yield process, json.loads(line)
    finally:
        process.terminate()
        process.wait(timeout=20)


async def _soak(
    server: Server, process: subprocess.Popen[str], options: argparse.Namespace
) -> dict[str, Any]:
    rng = Random(options.seed)
    asked = await questions(server, rng, num=NUM_QUESTIONS, longest=options.longest)
    tally = Tally()
    memory: list[dict[str, int]] = []
    began_s = time.monotonic()
    until_s = began_s + options.seconds
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch(process.pid, memory))
        clients = [
            tasks.create_task(client(server, asked, tally, Random(rng.random()), until_s))
            for _ in range(options.clients)
        ]
        await asyncio.wait(clients)
        watching.cancel()
    loaded_s = time.monotonic() - began_s
    idle_s = await _idle(server)
    return {
        "seconds": loaded_s,
        "answers": dict(tally.ended),
        "wrong": tally.wrong[:5],
        "num_wrong": len(tally.wrong),
        "refused": tally.refused,
        "tokens_per_s": tally.num_tokens / loaded_s,
        "ttft_p50_s": statistics.median(tally.ttft_s),
        "ttft_max_s": max(tally.ttft_s),
        "certain_questions": sum(each.certain == each.text for each in asked),
        "idle_after_s": idle_s,
        "slots_at_once": await _slots_at_once(server, asked[-1], options.slots),
        "slots": options.slots,
        "memory": _growth(memory),
    }


async def _watch(pid: int, memory: list[dict[str, int]]) -> None:
    """Resident bytes of the server and its agents, every second."""
    while True:
        memory.append(await asyncio.to_thread(_resident, pid))
        await asyncio.sleep(1)


def _resident(pid: int) -> dict[str, int]:
    root = psutil.Process(pid)
    children = root.children(recursive=True)
    return {
        "server": root.memory_info().rss,
        "agents": sum(child.memory_info().rss for child in children),
    }


def _growth(memory: Sequence[dict[str, int]]) -> dict[str, dict[str, float]]:
    """Megabytes early and late: medians of the first and last quarter of the warm time."""
    warm = memory[int(len(memory) * WARM_SHARE) :]
    quarter = max(len(warm) // 4, 1)
    found = {}
    for name in memory[0]:
        early = statistics.median(each[name] for each in warm[:quarter])
        late = statistics.median(each[name] for each in warm[-quarter:])
        found[name] = {"early_mb": early / 1e6, "late_mb": late / 1e6}
    return found


async def _idle(server: Server) -> float | None:
    """Seconds until nothing runs or waits; None where that does not happen."""
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < IDLE_WITHIN_S:
        gauges = [await server.metric(f"edgepipe_{name}") for name in ("running", "waiting")]
        if not any(gauges):
            return waited_s
        await asyncio.sleep(0.05)
    return None


async def _slots_at_once(server: Server, question: Question, slots: int) -> int:
    """Streams, of as many as there are slots, that begin before the first one ends."""
    first, last = [], []

    async def once() -> None:
        async with server.ask({**question.body, "stream": True}) as (_, reader):
            await reader.readline()
            first.append(time.monotonic())
            await reader.read()
            last.append(time.monotonic())

    await asyncio.gather(*(once() for _ in range(slots)))
    return sum(each <= min(last) for each in first)


def _missed(found: dict[str, Any]) -> list[str]:
    memory = found["memory"].items()
    grown = [n for n, each in memory if each["late_mb"] > each["early_mb"] * (1 + MAX_GROWTH)]
    return [
        *(["an answer was wrong"] if found["num_wrong"] else []),
        *(["no answer came"] if not found["answers"] else []),
        *(["slots were not given back"] if found["idle_after_s"] is None else []),
        *(["not every slot could be used"] if found["slots_at_once"] < found["slots"] else []),
        *[f"the memory of the {name} grew" for name in grown],
        *(["the server did not end well"] if found["exit_code"] else []),
    ]


if __name__ == "__main__":
    sys.exit(main())
