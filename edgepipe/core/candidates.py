"""Which devices a plan uses, and in which order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from edgepipe.core.profile import DeviceId, DeviceProfile
from edgepipe.errors import PlanError, UsageError

MAX_DEVICES = 64
"""The search keeps sets of devices as the bits of an integer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A device that a plan may use, the name of its node, and the machine that it is part of."""

    node: str
    device: DeviceProfile
    host: str = ""

    @property
    def key(self) -> tuple[str, DeviceId]:
        """What tells it from every other."""
        return self.node, self.device.id

    @property
    def machine(self) -> str:
        """The machine that it is part of: its host, or its node where nobody said."""
        return self.host or self.node

    @property
    def usable_bytes(self) -> int:
        """Memory that a stage may take: the limit less what the idle worker holds."""
        return self.device.memory_limit_bytes - self.device.baseline_bytes


def in_order(devices: Sequence[Candidate], nodes: Sequence[str] | None) -> tuple[Candidate, ...]:
    """The devices of `nodes` in that order, else all of them by the nodes' names.

    Several devices of one node stay together, in the order in which the node lists them.
    Raises UsageError for a node named twice, PlanError for one that is not here, and where two
    nodes share a name.
    """
    for (node, _), count in Counter(candidate.key for candidate in devices).items():
        if count > 1:
            raise PlanError(f"two nodes are called {node}: start one with another --name")
    by_node: dict[str, list[Candidate]] = {}
    for candidate in devices:
        by_node.setdefault(candidate.node, []).append(candidate)
    names = sorted(by_node) if nodes is None else nodes
    for position, name in enumerate(names):
        if name in names[:position]:
            raise UsageError(f"node {name} is named twice: name each node once")
        if name not in by_node:
            here = ", ".join(sorted(by_node)) or "none"
            raise PlanError(f"no usable device on a node called {name}: usable nodes are {here}")
    return tuple(candidate for name in names for candidate in by_node[name])


def roomiest(devices: Sequence[Candidate], count: int) -> tuple[Candidate, ...]:
    """The `count` devices with the most usable memory, in the order given; ties go to the first."""
    by_memory = sorted(range(len(devices)), key=lambda i: -devices[i].usable_bytes)
    return tuple(devices[i] for i in sorted(by_memory[:count]))


def choose(
    ordered: Sequence[Candidate], *, num_stages: int | None, num_layers: int, exactly: bool
) -> tuple[Candidate, ...]:
    """The devices of an equal plan, one stage each.

    `num_stages` of them, the roomiest; without a number all of them, or, unless `exactly` all
    were asked for, as many as there are layers. Raises UsageError for a number below 1, PlanError
    where devices are too few.
    """
    if num_stages is not None and num_stages < 1:
        raise UsageError(f"{num_stages} stages make no pipeline: ask for at least 1")
    count = num_stages or (len(ordered) if exactly else min(len(ordered), num_layers))
    check_enough(ordered, count)
    return roomiest(ordered, count)


def check_enough(ordered: Sequence[Candidate], num_stages: int) -> None:
    """Raises PlanError where there are fewer devices than stages, none, or too many to plan for."""
    if len(ordered) > MAX_DEVICES:
        raise PlanError(
            f"{len(ordered)} devices are usable, and a plan looks at {MAX_DEVICES} at most: "
            "name some with --nodes"
        )
    if not ordered:
        raise PlanError(
            "no device is usable: start `edgepipe agent` on a machine, name one that mDNS does "
            "not find with --peer HOST, or use --local 2"
        )
    if num_stages > len(ordered):
        few = "only 1 is usable" if len(ordered) == 1 else f"only {len(ordered)} are usable"
        raise PlanError(f"{num_stages} stages need {num_stages} devices, and {few}")
