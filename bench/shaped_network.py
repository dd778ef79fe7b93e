"""Machines on a LAN, made of network namespaces: real sockets, real multicast, real rates.

    host 0 ── eth0 ┐
    host 1 ── eth0 ┼ br0     the bridge stands in a namespace of its own, so that the machine
    host 2 ── eth0 ┘         that runs the tests sees none of it

`make_lan(stack, 3, rate="1gbit")` gives three hosts whose links carry that rate each way. Rates are
tc's words. A link's bucket passes `burst` at once after a pause: it must be far smaller than what
is sent in a burst, or the link does not limit it, and larger than what 2 ms carry.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BURST = "256kb"
"""Large enough for one offloaded segment, 2 ms at 1 Gbit/s."""


def can_make_networks() -> bool:
    """Whether this is Linux, with root's rights and iproute2."""
    return sys.platform == "linux" and os.geteuid() == 0 and shutil.which("ip") is not None


def ip(*words: str) -> str:
    """What `ip` says."""
    return subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, timeout=20
    ).stdout


def next_line(process: subprocess.Popen[Any], deadline_s: float = 20.0) -> str:
    """The next line of a process's unbuffered output; TimeoutError at the deadline."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], deadline_s)
    if not ready:
        raise TimeoutError(f"{process.args!r} said nothing for {deadline_s} s")
    line: bytes = process.stdout.readline()
    if not line:
        raise EOFError(f"{process.args!r} ended with {process.wait()}")
    return line.decode().rstrip("\n")


def environment(**changes: str) -> dict[str, str]:
    """Ours, with this checkout first, installed or not, and some changes."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One machine. `address` is IPv4 and `address6` global IPv6 on its only interface, eth0."""

    namespace: str
    index: int
    started: list[subprocess.Popen[Any]] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"10.97.0.{self.index + 1}"

    @property
    def address6(self) -> str:
        return f"fd97::{self.index + 1:x}"

    def popen(self, args: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process on this host; the pid is its own. It is killed when the LAN goes.

        Its standard output is an unbuffered pipe, for `next_line`, unless told otherwise.
        """
        command = ["ip", "netns", "exec", self.namespace, *args]
        defaults = {"cwd": ROOT, "env": environment(), "stdout": subprocess.PIPE, "bufsize": 0}
        self.started.append(subprocess.Popen(command, **{**defaults, **options}))
        return self.started[-1]

    def run(self, args: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on this host to its end."""
        command = ["ip", "netns", "exec", self.namespace, *args]
        pipes = {"capture_output": True, "text": True}
        defaults = {"cwd": ROOT, "env": environment(), "timeout": 120, **pipes}
        return subprocess.run(command, check=False, **{**defaults, **options})

    def received_bytes(self) -> int:
        """What has come in on eth0 so far."""
        counter = "/sys/class/net/eth0/statistics/rx_bytes"
        return int(self.run(["cat", counter]).stdout)

    def pids(self) -> list[int]:
        """The processes that run on this host."""
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lan:
    """Some hosts on one bridge."""

    switch: str
    hosts: tuple[Host, ...]

    def block_multicast(self, *, blocked: bool = True) -> None:
        """Be a switch or an access point that drops multicast, mDNS with it, or no longer."""
        flood = "off" if blocked else "on"
        for host in self.hosts:
            words = ["bridge", "-n", self.switch, "link", "set", "dev", f"port{host.index}"]
            subprocess.run([*words, "mcast_flood", flood], check=True, timeout=20)

    def shape(self, host: Host, rate: str, burst: str = BURST) -> None:
        """Limit what a host sends and receives to `rate`, in tc's words: `100mbit`, `1gbit`."""
        _shape(host.namespace, "eth0", rate, burst)
        _shape(self.switch, f"port{host.index}", rate, burst)


def _shape(namespace: str, interface: str, rate: str, burst: str) -> None:
    words = ["tc", "-n", namespace, "qdisc", "replace", "dev", interface, "root", "tbf"]
    options = ["rate", rate, "burst", burst, "latency", "50ms"]
    subprocess.run([*words, *options], check=True, capture_output=True, timeout=20)


def _add_namespace(stack: ExitStack, name: str) -> None:
    ip("netns", "add", name)
    stack.callback(ip, "netns", "del", name)
    ip("-n", name, "link", "set", "lo", "up")


def _add_host(stack: ExitStack, switch: str, host: Host) -> Host:
    _add_namespace(stack, host.namespace)
    stack.callback(_kill_all, host)
    # Without this an IPv6 address is of no use for two seconds.
    without_dad = "echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
    host.run(["sh", "-c", without_dad])
    port = f"port{host.index}"
    veth = ["type", "veth", "peer", "name", "eth0", "netns", host.namespace]
    ip("link", "add", port, "netns", switch, *veth)
    ip("-n", switch, "link", "set", port, "master", "br0", "up")
    ip("-n", host.namespace, "address", "add", f"{host.address}/24", "dev", "eth0")
    ip("-n", host.namespace, "address", "add", f"{host.address6}/64", "dev", "eth0", "nodad")
    ip("-n", host.namespace, "link", "set", "eth0", "up")
    return host


def _kill_all(host: Host) -> None:
    for pid in host.pids():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in host.started:
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def make_lan(stack: ExitStack, num_hosts: int, rate: str | None, burst: str = BURST) -> Lan:
    """Hosts on one bridge, until the stack closes; unlimited without a rate."""
    prefix = f"ep-{os.getpid()}-{secrets.token_hex(2)}"
    switch = f"{prefix}-switch"
    _add_namespace(stack, switch)
    ip("-n", switch, "link", "add", "br0", "type", "bridge")
    ip("-n", switch, "link", "set", "br0", "up")
    hosts = tuple(Host(namespace=f"{prefix}-{index}", index=index) for index in range(num_hosts))
    lan = Lan(switch=switch, hosts=tuple(_add_host(stack, switch, host) for host in hosts))
    for host in hosts if rate else ():
        lan.shape(host, str(rate), burst)
    return lan
