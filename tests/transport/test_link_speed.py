"""A link measured to plan with: over loopback, and over cables of a known rate."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from carriers import serving
from wire_frames import HELLO

from edgepipe.errors import LeaseLost
from edgepipe.transport.channel import open_channel
from edgepipe.transport.link_speed import measure_to_plan
from edgepipe.transport.measure import probe_handler

DEADLINE_S = 20
PROBE_END = Path(__file__).with_name("probe_end.py")
NEAR, FAR = "10.98.0.1", "10.98.0.2"


async def accept(hello):
    if hello.fence != HELLO.fence:
        raise LeaseLost("job x has no lease here")


async def measured(hello):
    async with (
        asyncio.timeout(DEADLINE_S),
        serving({"Probe": probe_handler(accept)}) as address,
        open_channel(address, None) as channel,
    ):
        return await measure_to_plan(channel, hello, peer="desk")


async def test_a_link_has_a_speed_and_a_latency_and_needs_no_raw_tcp():
    speed = await measured(HELLO)
    assert speed.bytes_per_s > 1e6
    assert 0 < speed.latency_s < 1
    assert speed.raw_tcp_bytes_per_s == 0


async def test_who_has_no_lease_measures_nothing():
    with pytest.raises(LeaseLost, match="no lease"):
        await measured(replace(HELLO, fence=1))


def run(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@pytest.fixture
def shaped_pair(request):
    """Two namespaces with a cable of that rate each way, which lets 256 KiB through at once."""
    near, far = (f"ls{os.getpid()}{side}" for side in "nf")
    with ExitStack() as stack:
        for name in (near, far):
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "delete", name)
        cable = ("type", "veth", "peer", "name", far, "netns", far)
        run("ip", "link", "add", near, "netns", near, *cable)
        for name, host in ((near, NEAR), (far, FAR)):
            run("ip", "-n", name, "address", "add", f"{host}/24", "dev", name)
            for interface in ("lo", name):
                run("ip", "-n", name, "link", "set", interface, "up")
            shape = ("tbf", "rate", request.param, "burst", "256kb", "latency", "50ms")
            run("tc", "-n", name, "qdisc", "add", "dev", name, "root", *shape)
        yield near, far


def probe_end(namespace, *arguments):
    command = ("ip", "netns", "exec", namespace, sys.executable, PROBE_END, *arguments)
    environment = os.environ | {"PYTHONPATH": str(PROBE_END.parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.netns
@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root on Linux"
)
@pytest.mark.parametrize(
    ("shaped_pair", "bytes_per_s"),
    [("50mbit", 6.25e6), ("100mbit", 12.5e6)],
    indirect=["shaped_pair"],
)
def test_a_shaped_link_is_seen_past_what_it_lets_through_at_once(shaped_pair, bytes_per_s):
    near, far = shaped_pair
    with probe_end(far, "far", FAR) as server:
        try:
            port = server.stdout.readline().strip()
            with probe_end(near, "plan", FAR, port) as client:
                speed = json.loads(client.communicate(timeout=60)[0])
        finally:
            server.kill()
    assert speed["bytes_per_s"] == pytest.approx(bytes_per_s, rel=0.08), speed
    assert speed["took_s"] < 3
