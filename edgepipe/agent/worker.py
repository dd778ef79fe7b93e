"""The worker process of one device, started by a supervisor (edgepipe.agent.start_worker).

It says where it listens in one line of JSON on standard output, and obeys its supervisor's lines
on standard input (see edgepipe.agent.worker_process).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import structlog
import torch

from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.duty import Duty
from edgepipe.agent.fence import Fence
from edgepipe.agent.lifeline import Lifeline
from edgepipe.agent.resident import resident_bytes
from edgepipe.agent.stage_servicer import StageServicer
from edgepipe.agent.weights import WeightStore
from edgepipe.engine.torch.engine import warm_up
from edgepipe.errors import EdgepipeError
from edgepipe.obs import logs
from edgepipe.transport.channel import bind, create_server
from edgepipe.transport.loop import run_loop

_log = structlog.get_logger(__name__)


def main(lifeline: Lifeline) -> None:
    """Serve one device until the supervisor is gone."""
    options = _parse()
    duty = Duty()
    logs.configure(
        options.log_format,
        options.log_level,
        stamp=duty.fields,
        node=options.node,
        device=options.device,
    )
    try:
        run_loop(_serve(options, lifeline, duty))
    except EdgepipeError as error:
        _log.error("worker cannot start", because=str(error))
        sys.exit(error.exit_code)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="edgepipe.agent.start_worker")
    parser.add_argument("--device", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--slowdown", type=float, required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--log-format", required=True)
    parser.add_argument("--log-level", required=True)
    return parser.parse_args()


async def _serve(options: argparse.Namespace, lifeline: Lifeline, duty: Duty) -> None:
    fence = Fence()
    server = create_server()
    port = bind(server, options.host, options.port, None)
    with ExitStack() as stack:
        compute = stack.enter_context(ComputeThread("compute"))
        coding = stack.enter_context(ComputeThread("coding"))
        await compute.run(lambda: _prepare(options))
        device = WorkerDevice(
            torch_device=torch.device(options.device),
            slowdown=options.slowdown,
            baseline_bytes=resident_bytes(),
            store=WeightStore(options.home),
            compute=compute,
            coding=coding,
            credentials=None,
            duty=duty,
        )
        servicer = StageServicer(device, fence)
        servicer.add_to(server)
        lifeline.on_line = _obey(fence, servicer, asyncio.get_running_loop())
        await server.start()
        _say({"port": port, "baseline_bytes": device.baseline_bytes})
        await server.wait_for_termination()


def _prepare(options: argparse.Namespace) -> None:
    """Load what an engine needs, so that the idle worker's memory is an honest baseline."""
    torch.set_num_threads(options.threads)
    warm_up(options.device)
    gc.collect()
    gc.freeze()
    gc.enable()


def _obey(
    fence: Fence, servicer: StageServicer, loop: asyncio.AbstractEventLoop
) -> Callable[[bytes], None]:
    def on_line(line: bytes) -> None:
        match json.loads(line):
            case {"fence": int(number)}:
                asyncio.run_coroutine_threadsafe(fence.set(number), loop)
            case {"leaving": True}:
                asyncio.run_coroutine_threadsafe(fence.leave(), loop)
            case {"reading": _}:
                loop.call_soon_threadsafe(tell)

    def tell() -> None:
        print(servicer.reading().to_line(), flush=True)  # noqa: T201 -- the supervisor reads it

    return on_line


def _say(words: Mapping[str, int]) -> None:
    """A line to the supervisor."""
    print(json.dumps(words), flush=True)  # noqa: T201 -- it reads our standard output
