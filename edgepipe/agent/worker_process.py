"""A device's worker process, seen from the supervisor.

    supervisor ──stdin──▶ worker ──stdout──▶ supervisor
                                  {"port": …, "baseline_bytes": …}    once it listens
         {"fence": 7}                                                 who may use its device
         {"reading": 1}           {"busy_s": …, …}, a Reading         what it does; its loop turns
         {"leaving": true}                                            its job ends now

The worker's standard input is also its lifeline (edgepipe.agent.lifeline); its log goes to
standard error, which it shares with the supervisor.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from edgepipe.agent.reading import Reading
from edgepipe.core.profile import DeviceId
from edgepipe.errors import NodeError

UNCACHED_HEAP = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
"""Freed chunks join their neighbours at once. Else glibc before 2.38 keeps the cuttings around
aligned tensors apart, and every hole stays too small for the next tensor of its size."""
START_DEADLINE_S = 120.0
STOP_DEADLINE_S = 5.0
READING_DEADLINE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """How to start a worker."""

    device: DeviceId
    host: str
    port: int
    num_threads: int
    slowdown: float
    home: str
    node: str
    log_format: str
    log_level: str

    @property
    def command(self) -> Sequence[str]:
        """The worker's command line."""
        options = {
            "--device": self.device,
            "--host": self.host,
            "--port": self.port,
            "--threads": self.num_threads,
            "--slowdown": self.slowdown,
            "--home": self.home,
            "--node": self.node,
            "--log-format": self.log_format,
            "--log-level": self.log_level,
        }
        flags = [str(word) for option in options.items() for word in option]
        return [sys.executable, "-m", "edgepipe.agent.start_worker", *flags]

    @property
    def environment(self) -> dict[str, str]:
        """Threads are set before the libraries that read them are loaded; none of them spins.

        Large tensors lie on huge pages: mapping them anew for every microbatch costs a third less.

        gRPC polls on the thread that completes its calls: through its event engine every message
        wakes one more thread, a tenth of what a decoded token costs (docs/LOG.md).

        The heap is `UNCACHED_HEAP`: its holes took as much again as what training keeps alive.
        """
        threads = str(self.num_threads)
        return {
            "GRPC_EXPERIMENTS": "-event_engine_client,-event_engine_listener",
            "GLIBC_TUNABLES": UNCACHED_HEAP,
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            "THP_MEM_ALLOC_ENABLE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }


class WorkerProcess:
    """One running worker: `port` is where it listens."""

    def __init__(
        self, spec: WorkerSpec, process: asyncio.subprocess.Process, ready: dict[str, int]
    ) -> None:
        self.spec = spec
        self.port = ready["port"]
        self.baseline_bytes = ready["baseline_bytes"]
        self._process = process
        self._asked: asyncio.Task[Reading | None] | None = None

    @classmethod
    async def start(cls, spec: WorkerSpec) -> Self:
        """Start a worker and wait until it listens. Raises NodeError if it does not."""
        process = await asyncio.create_subprocess_exec(
            *spec.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=spec.environment,
        )
        try:
            async with asyncio.timeout(START_DEADLINE_S):
                assert process.stdout is not None
                line = await process.stdout.readline()
        except TimeoutError:
            process.kill()
            raise NodeError(
                f"the worker of {spec.device} did not start within {START_DEADLINE_S:.0f} s"
            ) from None
        except asyncio.CancelledError:
            process.kill()
            raise
        try:
            ready = json.loads(line or b"{}")
            return cls(spec, process, ready)
        except (ValueError, KeyError):
            code = await process.wait()
            raise NodeError(
                f"the worker of {spec.device} ended with code {code} before it listened; "
                "its own message stands above"
            ) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def set_fence(self, fence: int) -> None:
        """Tell the worker who may use its device: 0 for nobody."""
        self._say({"fence": fence})

    def leave(self) -> None:
        """Have the worker end what runs on its device, and tell whoever runs it why."""
        self._say({"leaving": True})

    def _say(self, words: Mapping[str, int]) -> None:
        assert self._process.stdin is not None
        if self._process.returncode is None:
            self._process.stdin.write(json.dumps(words).encode() + b"\n")

    async def reading(self) -> Reading | None:
        """What the worker has done; None if it does not answer soon."""
        try:
            async with asyncio.timeout(READING_DEADLINE_S):
                return await self.answer()
        except TimeoutError:
            return None

    async def answer(self) -> Reading | None:
        """What the worker has done, once its event loop has answered; None if it has ended.

        It is asked once, however many wait: a worker that is frozen is left with one question.
        """
        if self._asked is None or self._asked.done():
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> Reading | None:
        assert self._process.stdout is not None
        self._say({"reading": 1})
        while line := await self._process.stdout.readline():
            if (reading := Reading.from_line(line)) is not None:
                return reading
        return None

    async def wait(self) -> int:
        """Its exit code, once it has ended."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End it: gently, then by force."""
        if self._process.returncode is not None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_DEADLINE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
