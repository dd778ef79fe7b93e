"""The network of a cluster file: NICs, and a link for every pair of its nodes, each way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from edgepipe.coordinator.toml_table import Table
from edgepipe.core.problem import Nic
from edgepipe.core.speed import Link

MAX_NICS = 64
MAX_LINKS = 64 * 63
MIN_BYTES_PER_S, MAX_BYTES_PER_S = 1e3, 1e15
"""Beyond these somebody mistook the unit: `1` for 1 Gbit/s, which is 125e6."""
MAX_LATENCY_S = 60.0
LAN_LATENCY_S = 0.5e-3
"""Between two machines on one switch, where nobody states it: gRPC frames, one way."""

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a link that is not stated is like; None is not stated either."""

    bytes_per_s: float | None
    latency_s: float | None


def read_network(whole: Table, nodes: Sequence[str]) -> tuple[tuple[Link, ...], dict[str, Nic]]:
    """The links between nodes and the NICs by node. Raises UsageError."""
    defaults = _defaults(whole.table("defaults"))
    nics = _nics(whole, nodes)
    stated = _stated_links(whole, nodes)
    links = tuple(
        stated.get(pair) or _reverse(stated, pair) or _unstated(whole, pair, defaults, nics)
        for pair in permutations(nodes, 2)
    )
    return links, nics


def _defaults(table: Table) -> Defaults:
    table.check_keys(("bytes_per_s", "latency_s"))
    return Defaults(
        bytes_per_s=_bytes_per_s(table) if "bytes_per_s" in table.values else None,
        latency_s=_latency_s(table) if "latency_s" in table.values else None,
    )


def _bytes_per_s(table: Table) -> float:
    return table.number("bytes_per_s", low=MIN_BYTES_PER_S, high=MAX_BYTES_PER_S)


def _latency_s(table: Table) -> float:
    return table.number("latency_s", low=0, high=MAX_LATENCY_S)


def _node(table: Table, key: str, nodes: Sequence[str]) -> str:
    """A node that has a device."""
    node = table.text(key)
    if node not in nodes:
        raise table.wrong(
            f"{key} is {node!r}, a node without a device: "
            "add a [[device]] of it, or name one that has"
        )
    return node


def _nics(whole: Table, nodes: Sequence[str]) -> dict[str, Nic]:
    nics: dict[str, Nic] = {}
    for table in whole.tables("nic", at_most=MAX_NICS):
        table.check_keys(("node", "bytes_per_s", "medium"))
        node = _node(table, "node", nodes)
        if node in nics:
            raise table.wrong(f"{node} has a NIC already: state one for each node")
        bytes_per_s = _bytes_per_s(table)
        nics[node] = Nic(
            send_bytes_per_s=bytes_per_s,
            receive_bytes_per_s=bytes_per_s,
            medium=table.text("medium") if "medium" in table.values else None,
        )
    return nics


def _stated_links(whole: Table, nodes: Sequence[str]) -> dict[Pair, Link]:
    links: dict[Pair, Link] = {}
    for table, link in _links(whole, nodes):
        pair = link.sender, link.receiver
        if pair in links:
            raise table.wrong(
                f"a link from {link.sender} to {link.receiver} is stated already: "
                "state each direction once"
            )
        links[pair] = link
    return links


def _links(whole: Table, nodes: Sequence[str]) -> Iterator[tuple[Table, Link]]:
    for table in whole.tables("link", at_most=MAX_LINKS):
        table.check_keys(("from", "to", "bytes_per_s", "latency_s"))
        sender, receiver = _node(table, "from", nodes), _node(table, "to", nodes)
        if sender == receiver:
            raise table.wrong(
                f"from {sender} to itself, whose devices reach each other anyway: leave it out"
            )
        yield (
            table,
            Link(
                sender=sender,
                receiver=receiver,
                bytes_per_s=_bytes_per_s(table),
                latency_s=_latency_s(table),
            ),
        )


def _reverse(stated: Mapping[Pair, Link], pair: Pair) -> Link | None:
    """A link as its other direction, where only that is stated."""
    other = stated.get((pair[1], pair[0]))
    if other is None:
        return None
    return Link(
        sender=pair[0],
        receiver=pair[1],
        bytes_per_s=other.bytes_per_s,
        latency_s=other.latency_s,
    )


def _unstated(whole: Table, pair: Pair, defaults: Defaults, nics: Mapping[str, Nic]) -> Link:
    """As the defaults say, no faster than the NICs at its ends."""
    sender, receiver = pair
    rates = [nics[sender].send_bytes_per_s] if sender in nics else []
    rates += [nics[receiver].receive_bytes_per_s] if receiver in nics else []
    if defaults.bytes_per_s is None and len(rates) < 2:
        raise whole.wrong(
            f"no link from {sender} to {receiver}: add a [[link]], a [[nic]] for both, "
            "or bytes_per_s under [defaults]"
        )
    rates += [] if defaults.bytes_per_s is None else [defaults.bytes_per_s]
    return Link(
        sender=sender,
        receiver=receiver,
        bytes_per_s=min(rates),
        latency_s=LAN_LATENCY_S if defaults.latency_s is None else defaults.latency_s,
    )
