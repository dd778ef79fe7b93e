"""Private agents on this machine: real processes, real sockets, gone with the command.

They listen on loopback under a random cluster name. Each one's standard input is its lifeline:
when this process ends, however it ends, they do.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil

from edgepipe.core.profile import Address
from edgepipe.errors import NodeError, UsageError

START_DEADLINE_S = 180.0
STOP_DEADLINE_S = 8.0
MEMORY_SHARE = 0.9
MAX_SLOWDOWN = 1000
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCluster:
    """The private agents' cluster name, and where their supervisors listen."""

    name: str
    peers: tuple[Address, ...]


@asynccontextmanager
async def local_agents(
    count: int,
    *,
    home: Path,
    threads: int | None = None,
    slowdowns: Sequence[float] = (),
    mdns: bool = False,
) -> AsyncIterator[LocalCluster]:
    """Start `count` agents and end them on leaving.

    Args:
        count: how many.
        home: EDGEPIPE_HOME, whose weight cache they share.
        threads: of each; default this machine's cores / count.
        slowdowns: one per agent, or none.
        mdns: whether they advertise themselves, on loopback.

    Raises:
        UsageError: the numbers do not match.
        NodeError: an agent did not start; the message holds the end of its log.
    """
    check_local(count, threads, slowdowns)
    cluster = f"local-{secrets.token_hex(6)}"
    cores = _cores()
    each = threads or max(1, len(cores) // count)
    shares = shared_out(cores, count, each)
    common = {
        "--cluster": cluster,
        "--home": str(home),
        "--threads": str(each),
        "--memory": f"{int(psutil.virtual_memory().total * MEMORY_SHARE / count) >> 20}MiB",
    }
    agents: list[_LocalAgent] = []
    try:
        for index in range(count):
            slowdown = str(slowdowns[index] if slowdowns else 1.0)
            options = {**common, "--name": f"local-{index + 1}", "--slowdown": slowdown}
            agent = await _LocalAgent.spawn(options, mdns=mdns)
            agents.append(agent)
            agent.stay_on(shares[index])
        peers = await _addresses(agents)
        yield LocalCluster(name=cluster, peers=peers)
    finally:
        await asyncio.gather(*(agent.stop() for agent in agents))


def _cores() -> list[int]:
    """The cores that this process may use."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return list(range(psutil.cpu_count() or 1))


def shared_out(cores: Sequence[int], count: int, threads: int) -> list[Sequence[int]]:
    """Cores of each of so many agents: its own, where there are enough for all their threads.

    Threads that wander from core to core lose what is cached, and now and then two of them meet on
    one core while another idles.
    """
    if count * threads > len(cores):
        return [cores] * count
    size = len(cores) // count
    return [cores[at * size : (at + 1) * size] for at in range(count)]


def check_local(count: int, threads: int | None, slowdowns: Sequence[float]) -> None:
    """Raise UsageError for numbers with which no agents start."""
    if count < 1:
        raise UsageError(f"--local {count} starts no agent: ask for at least 1")
    if threads is not None and threads < 1:
        raise UsageError(f"--threads {threads} computes nothing: give each agent at least 1")
    for slowdown in slowdowns:
        if not 1 <= slowdown <= MAX_SLOWDOWN:
            raise UsageError(
                f"--slowdown {slowdown:g} is not within 1 (as fast as it is) to {MAX_SLOWDOWN}"
            )
    if slowdowns and len(slowdowns) != count:
        raise UsageError(
            f"--slowdown names {len(slowdowns)} agents and --local starts {count}: give one each"
        )


async def _addresses(agents: Sequence[_LocalAgent]) -> tuple[Address, ...]:
    try:
        async with asyncio.timeout(START_DEADLINE_S):
            return tuple(await asyncio.gather(*(agent.address() for agent in agents)))
    except TimeoutError:
        raise NodeError(
            f"the private agents did not start within {START_DEADLINE_S:.0f} s: ask for fewer"
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _LocalAgent:
    name: str
    process: asyncio.subprocess.Process
    log: BinaryIO

    @classmethod
    async def spawn(cls, options: dict[str, str], *, mdns: bool) -> _LocalAgent:
        log = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by stop
        flags = [word for option in options.items() for word in option]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "edgepipe", "agent", "--private", "--listen", "127.0.0.1:0"),
            *("--device", "cpu", "--log-format", "console", *flags),
            *(() if mdns else ("--no-mdns",)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for the command: it ends its agents
        )
        return cls(name=options["--name"], process=process, log=log)

    def stay_on(self, cores: Sequence[int]) -> None:
        """Keep it, and the worker that it will start, on these cores, where the system can."""
        if sys.platform == "linux":
            with suppress(ProcessLookupError):
                os.sched_setaffinity(self.process.pid, cores)

    async def address(self) -> Address:
        """Where it listens, once it does."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        try:
            return Address(host="127.0.0.1", port=json.loads(line)["port"], interface="lo")
        except (ValueError, KeyError):
            code = await self.process.wait()
            raise NodeError(
                f"the agent {self.name} ended with code {code} before it listened: {self._tail()}"
            ) from None

    def _tail(self) -> str:
        self.log.seek(0)
        text = self.log.read()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        return text.splitlines()[-1].removeprefix("edgepipe: ") if text else "it said nothing"

    async def stop(self) -> None:
        if self.process.returncode is None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            try:
                async with asyncio.timeout(STOP_DEADLINE_S):
                    await self.process.wait()
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        self.log.close()
