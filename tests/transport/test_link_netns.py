"""A 16 MB activation crosses a 1 Gbit/s link as fast as one raw TCP stream does, or nearly."""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

PROBE_END = Path(__file__).with_name("probe_end.py")
NEAR, FAR = "10.99.0.1", "10.99.0.2"

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not sys.platform.startswith("linux") or os.geteuid() != 0, reason="needs root on Linux"
    ),
]


def run(*command):
    subprocess.run(command, check=True, capture_output=True, timeout=20)


@pytest.fixture
def shaped_pair():
    """Two namespaces, one cable of 1 Gbit/s each way."""
    near, far = (f"ep{os.getpid()}{side}" for side in "nf")
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
            shape = ("tbf", "rate", "1gbit", "burst", "256kb", "latency", "50ms")
            run("tc", "-n", name, "qdisc", "add", "dev", name, "root", *shape)
        yield near, far


def probe_end(namespace, *arguments):
    command = ("ip", "netns", "exec", namespace, sys.executable, PROBE_END, *arguments)
    environment = os.environ | {"PYTHONPATH": str(PROBE_END.parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_frame_of_16_mib_takes_at_most_a_twentieth_longer_than_raw_tcp(shaped_pair):
    near, far = shaped_pair
    with probe_end(far, "far", FAR) as server:
        try:
            port = server.stdout.readline().strip()
            with probe_end(near, "near", FAR, port, "7") as client:
                speed = json.loads(client.communicate(timeout=60)[0])
        finally:
            server.kill()
    assert speed["raw_tcp_bytes_per_s"] < 1.05 * 125e6, "the link is not shaped"
    assert speed["bytes_per_s"] >= 0.95 * speed["raw_tcp_bytes_per_s"], speed
    assert 0 < speed["latency_s"] < 0.01
