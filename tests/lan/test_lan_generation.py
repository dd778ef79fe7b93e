"""Three machines that share nothing but a LAN generate for a fourth: real agents, real commands.

attic  ┐
cellar ┼ br0, 1 Gbit/s ── laptop, where `edgepipe run` is typed
desk   ┘
"""

from __future__ import annotations

import ipaddress
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.shaped_network import Host, Lan, environment, next_line

pytestmark = pytest.mark.netns

NAMES = ("attic", "cellar", "desk")
WEIGHT_BYTES = 90_000_000
"""SmolLM2 as it is stored, more or less; the embedding, which is tied, goes to two machines."""

RUN = (
    *("run", "smollm2-135m", "--prompt", "Why is the sky blue?"),
    *("--max-tokens", "16", "--temperature", "0"),
)

PAPER = """
[defaults]
bytes_per_s = 118e6
latency_s = 0.3e-3
""" + "".join(
    f"""
[[device]]
node = "{name}"
device = "cpu"
memory = "4GiB"
embedding_decode_s = 0
embedding_prefill_s = 0
layer_decode_s = 1e-3
layer_prefill_s = 10e-3
head_decode_s = 1e-3
head_prefill_s = 1e-3
"""
    for name in NAMES
)
"""The machines on paper: a plan that was made from it is pinned, so that nothing is measured."""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "edgepipe", *words]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A host with an agent, and the home that no other machine sees."""

    name: str
    host: Host
    home: Path

    def blobs(self) -> dict[str, tuple[int, int]]:
        """The files of its weight cache: bytes, and when each was written."""
        files = {file.name: file.stat() for file in (self.home / "weights").iterdir()}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in files.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The LAN, its machines, and the laptop on which commands are typed."""

    lan: Lan
    machines: tuple[Machine, ...]
    laptop: Host
    home: Path
    plan: Path

    def generate(self, *words: str) -> Any:
        """One answer by the pinned plan: its JSON."""
        return self.run(*RUN, "--plan", str(self.plan), *words)

    def run(self, *words: str) -> Any:
        """A command that ends well: its JSON."""
        result = self.try_to(*words, "--json")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    def try_to(self, *words: str) -> Any:
        return self.laptop.run(
            command(*words),
            env=environment(EDGEPIPE_HOME=str(self.home), OMP_NUM_THREADS="1", NO_COLOR="1"),
        )

    def addresses_of(self, name: str) -> set[str]:
        host = next(machine.host for machine in self.machines if machine.name == name)
        return {host.address, host.address6}


@pytest.fixture(scope="module")
def site(
    lasting_lan: Callable[..., Lan],
    session_home: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    network = lasting_lan(4, rate="1gbit")
    *hosts, laptop = network.hosts
    machines = tuple(
        Machine(name=name, host=host, home=tmp_path_factory.mktemp(name))
        for name, host in zip(NAMES, hosts, strict=True)
    )
    for agent in [_start_agent(machine) for machine in machines]:
        assert json.loads(next_line(agent, deadline_s=120))["port"] == 27700
    paper, plan = (tmp_path_factory.mktemp("paper") / name for name in ("lan.toml", "plan.json"))
    paper.write_text(PAPER)
    site = Site(lan=network, machines=machines, laptop=laptop, home=session_home, plan=plan)
    words = ("--strategy", "equal", "--codec", "bf16", "--context", "256", "--dtype", "float32")
    site.run("plan", "smollm2-135m", "--cluster-file", str(paper), "--save", str(plan), *words)
    return site


def _start_agent(machine: Machine) -> Any:
    return machine.host.popen(
        command("agent", "--name", machine.name, "--device", "cpu", "--threads", "1"),
        env=environment(EDGEPIPE_HOME=str(machine.home), OMP_NUM_THREADS="1"),
    )


@pytest.fixture(scope="module")
def first(site: Site) -> dict[str, Any]:
    """The first answer: nobody was named, and no machine had any weights."""
    assert not any((machine.home / "weights").exists() for machine in site.machines)
    before = [machine.host.received_bytes() for machine in site.machines]
    answer = dict(site.generate())
    answer["received"] = [
        machine.host.received_bytes() - start
        for machine, start in zip(site.machines, before, strict=True)
    ]
    return answer


def test_three_machines_are_found_by_mdns_alone_and_generate(
    site: Site, first: dict[str, Any]
) -> None:
    assert len(first["token_ids"]) == 16
    assert [stage["node"] for stage in first["plan"]] == list(NAMES)
    assert [stage["layers"] for stage in first["plan"]] == [[0, 10], [10, 20], [20, 30]]
    assert first["codec"] == "bf16"
    _expect_neighbours_reached(site, first["plan"])


def _expect_neighbours_reached(site: Site, plan: list[dict[str, Any]]) -> None:
    """Each stage dialled the next one's worker, on an address of that machine."""
    for stage, after in zip(plan, [*plan[1:], plan[0]], strict=True):
        host, _, port = stage["reached"].rpartition(":")
        assert port == "27701"
        reached = ipaddress.ip_address(host.strip("[]"))
        assert reached.is_link_local or str(reached) in site.addresses_of(after["node"])


def test_each_machine_is_sent_its_own_layers_and_keeps_them(
    site: Site, first: dict[str, Any]
) -> None:
    for machine, stage, received in zip(
        site.machines, first["plan"], first["received"], strict=True
    ):
        kept = sum(size for size, _ in machine.blobs().values())
        assert 0.2 * WEIGHT_BYTES < kept < 0.7 * WEIGHT_BYTES
        assert kept < received < 1.2 * kept
        assert kept < stage["weight_bytes"]
        assert all(name.endswith(".safetensors") for name in machine.blobs())


def test_a_second_run_transfers_nothing_and_says_the_same(
    site: Site, first: dict[str, Any]
) -> None:
    kept = [machine.blobs() for machine in site.machines]
    before = [machine.host.received_bytes() for machine in site.machines]
    again = site.generate()
    after = [machine.host.received_bytes() for machine in site.machines]
    assert [machine.blobs() for machine in site.machines] == kept
    assert max(end - start for start, end in zip(before, after, strict=True)) < 3_000_000
    assert again["token_ids"] == first["token_ids"]


def test_nodes_shows_every_address(site: Site) -> None:
    nodes = site.run("nodes")["nodes"]
    assert [node["name"] for node in nodes] == list(NAMES)
    for node, machine in zip(nodes, site.machines, strict=True):
        assert node["state"] == "alive"
        assert f"{machine.host.address}:27700" in node["addresses"]
        assert f"[{machine.host.address6}]:27700" in node["addresses"]


@pytest.mark.slow  # tests/lan/test_lan_discovery.py has static peers alone
def test_peers_do_where_multicast_is_blocked(site: Site, first: dict[str, Any]) -> None:
    site.lan.block_multicast()
    try:
        alone = site.try_to(*RUN)
        peers = [word for machine in site.machines for word in ("--peer", machine.host.address)]
        answer = site.generate(*peers)
    finally:
        site.lan.block_multicast(blocked=False)
    assert alone.returncode == 1
    (sentence,) = alone.stderr.strip().splitlines()
    assert "--peer" in sentence
    assert [stage["node"] for stage in answer["plan"]] == list(NAMES)
    assert answer["token_ids"] == first["token_ids"]


@pytest.mark.slow  # six measurements; tests/transport/test_link_netns.py makes one
def test_every_link_carries_frames_as_fast_as_raw_tcp(site: Site) -> None:
    links = site.run("bench", "link")["links"]
    pairs = {(link["from"], link["to"]) for link in links}
    assert pairs == {(one, two) for one in NAMES for two in NAMES if one != two}
    for link in links:
        assert link["raw_tcp_bytes_per_s"] < 1.05 * 125e6, "the link is not shaped"
        assert link["bytes_per_s"] >= 0.95 * link["raw_tcp_bytes_per_s"], link
