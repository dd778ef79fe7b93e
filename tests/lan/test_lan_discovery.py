"""Three machines on one LAN find each other, by mDNS or without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.shaped_network import Host, Lan, next_line

pytestmark = pytest.mark.netns

NODE = str(Path(__file__).with_name("mdns_node.py"))
NAMES = ("attic", "cellar", "desk")


class Node:
    """A process on a host that advertises itself and tells what it sees."""

    def __init__(self, host: Host, name: str) -> None:
        self.name = name
        self.host = host
        self.process = host.popen([sys.executable, NODE, "node", name, "home"])
        self.wait_for("ready")

    def wait_for(self, event: str, name: str | None = None) -> dict[str, Any]:
        """The next event of that kind, about that node (None: any)."""
        while True:
            seen = dict(json.loads(next_line(self.process)))
            if seen["event"] == event and name in {None, seen.get("name")}:
                return seen

    def see_all(self) -> dict[str, list[str]]:
        """Wait until every node has appeared: their names and addresses."""
        seen: dict[str, list[str]] = {}
        while seen.keys() != set(NAMES):
            event = self.wait_for("appeared")
            seen[event["name"]] = event["hosts"]
        return seen


def look(host: Host, num_wanted: int, *peers: str) -> dict[str, Any]:
    result = host.run([sys.executable, NODE, "browse", "home", str(num_wanted), *peers])
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


@pytest.fixture
def three(lan: Callable[..., Lan]) -> tuple[Lan, list[Node]]:
    network = lan(3)
    return network, [Node(host, name) for host, name in zip(network.hosts, NAMES, strict=True)]


def test_three_machines_see_each_other_over_mdns_alone(three: tuple[Lan, list[Node]]) -> None:
    network, nodes = three
    for node in nodes:
        for name, hosts in node.see_all().items():
            machine = network.hosts[NAMES.index(name)]
            assert {machine.address, machine.address6} <= set(hosts)


def test_one_look_finds_and_reaches_all_by_each_address(three: tuple[Lan, list[Node]]) -> None:
    network, _ = three
    seen = look(network.hosts[1], 3)
    assert sorted(seen["found"]) == sorted(NAMES)
    assert set(seen["reached"]) == set(NAMES)
    assert len(seen["reached"]) >= 2 * len(NAMES)
    assert seen["elapsed_s"] < 3


def test_a_machine_that_leaves_is_gone_at_once(three: tuple[Lan, list[Node]]) -> None:
    _, (attic, cellar, desk) = three
    desk.see_all()
    cellar.see_all()
    attic.process.terminate()
    assert attic.process.wait(20) == 0
    desk.wait_for("withdrawn", "attic")
    cellar.wait_for("withdrawn", "attic")


def test_mdns_does_not_see_a_kill(three: tuple[Lan, list[Node]]) -> None:
    """Its records live on for up to 75 minutes, so that only health can tell."""
    network, (attic, cellar, desk) = three
    desk.see_all()
    attic.process.kill()
    attic.process.wait()
    cellar.process.terminate()
    assert desk.wait_for("withdrawn")["name"] == "cellar"
    assert look(network.hosts[2], 2)["found"] == ["desk"]


def test_static_peers_do_without_multicast(lan: Callable[..., Lan]) -> None:
    network = lan(3)
    network.block_multicast()
    nodes = [Node(host, name) for host, name in zip(network.hosts, NAMES, strict=True)]
    assert look(network.hosts[2], 2)["found"] == ["desk"]
    peers = [network.hosts[0].address, f"{network.hosts[1].address}:27700"]
    seen = look(network.hosts[2], 3, *peers)
    assert sorted(seen["found"]) == sorted([f"{peers[0]}:27700", peers[1], "desk"])
    assert set(seen["reached"]) == set(NAMES)
    for node in nodes:
        node.wait_for("appeared", node.name)


def test_machines_without_dhcp_meet_over_link_local_ipv6(lan: Callable[..., Lan]) -> None:
    """A cable between two machines: the zone of an address is that of whoever dials it."""
    network = lan(2)
    for host in network.hosts:
        for address in (f"{host.address}/24", f"{host.address6}/64"):
            host.run(["ip", "address", "del", address, "dev", "eth0"])
    Node(network.hosts[0], "attic")
    seen = look(network.hosts[1], 1)
    assert (seen["found"], seen["reached"]) == (["attic"], ["attic"])


def test_a_machine_without_a_network_finds_itself(lan: Callable[..., Lan]) -> None:
    (host,) = lan(1).hosts
    host.run(["ip", "link", "set", "eth0", "down"])
    Node(host, "attic")
    assert look(host, 1)["reached"] == ["attic", "attic"]


def test_static_peers_do_where_the_mdns_port_is_taken(lan: Callable[..., Lan]) -> None:
    (host,) = lan(1).hosts
    assert next_line(host.popen([sys.executable, "-c", HOLD_MDNS])) == "held"
    seen = look(host, 2, "10.97.0.9")
    assert seen["found"] == ["10.97.0.9:27700"]
    assert seen["elapsed_s"] < 1


def test_loopback_reaches_as_far_as_the_host_id_is_the_same(lan: Callable[..., Lan]) -> None:
    attic, cellar = lan(2).hosts
    code = "from edgepipe.agent.host import host_id; print(host_id())"
    ids = [host.run([sys.executable, "-c", code]).stdout for host in (attic, attic, cellar)]
    assert ids[0] == ids[1] != ids[2]


def test_a_shaped_link_carries_its_rate(lan: Callable[..., Lan]) -> None:
    network = lan(2, rate="100mbit")
    receiver = network.hosts[0].popen([sys.executable, "-c", RECEIVE])
    assert next_line(receiver) == "listening"
    sent = network.hosts[1].run([sys.executable, "-c", SEND, network.hosts[0].address])
    assert sent.returncode == 0, sent.stderr
    mbit_per_s = float(next_line(receiver))
    assert 85 < mbit_per_s < 105


HOLD_MDNS = """
import socket, time
holder = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
holder.bind(("::", 5353))
print("held", flush=True)
time.sleep(60)
"""
RECEIVE = """
import socket, time
listener = socket.create_server(("", 5000))
print("listening", flush=True)
connection, _ = listener.accept()
num_bytes, started = 0, time.monotonic()
while data := connection.recv(1 << 16):
    num_bytes += len(data)
print(num_bytes * 8 / 1e6 / (time.monotonic() - started), flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 5000)) as connection:
    connection.sendall(bytes(8_000_000))
"""
