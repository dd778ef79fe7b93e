"""What a container engine asks of an agent."""

from __future__ import annotations

import asyncio
import sys

from edgepipe.transport.channel import add_standard_services, bind, create_server


async def ask(port: int) -> tuple[int | None, str]:
    command = (sys.executable, "-m", "edgepipe.agent.health", f"127.0.0.1:{port}")
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(60):
        _, errors = await process.communicate()
    return process.returncode, errors.decode()


async def test_an_agent_that_serves_is_healthy_and_one_that_is_gone_is_not() -> None:
    server = create_server()
    port = bind(server, "127.0.0.1", 0, None)
    add_standard_services(server, ["edgepipe.wire.v1.Agent"])
    await server.start()
    try:
        assert await ask(port) == (0, "")
    finally:
        await server.stop(0)
    assert await ask(port) == (1, f"no agent answers at 127.0.0.1:{port}: UNAVAILABLE\n")
