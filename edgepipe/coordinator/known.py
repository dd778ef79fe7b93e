"""How fast the nodes that are here are, as far as earlier plans had it measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgepipe.coordinator.profiles import DeviceEntry, LinkEntry, Profiles, known_as
from edgepipe.core.profile import DeviceProfile, NodeProfile

MAX_MODELS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSpeed:
    """A device, as if it held a whole model; rates of one sequence, in tokens per second."""

    model: str
    dtype: str
    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    measured_at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLink:
    """A link from one node to another."""

    sender: str
    receiver: str
    bytes_per_s: float
    latency_s: float
    measured_at_s: float


def known_speeds(
    profiles: Profiles, nodes: Iterable[NodeProfile]
) -> dict[tuple[str, str], tuple[KnownSpeed, ...]]:
    """By node and device: the latest figures of each model, a few of them."""
    entries = profiles.devices()
    return {
        (node.name, device.id): _speeds(entries, node, device)
        for node in nodes
        for device in node.devices
    }


def known_links(profiles: Profiles, nodes: Sequence[NodeProfile]) -> tuple[KnownLink, ...]:
    """The latest figures of each pair of nodes."""
    entries = profiles.links()
    return tuple(
        KnownLink(
            sender=one.name,
            receiver=two.name,
            bytes_per_s=entry.bytes_per_s,
            latency_s=entry.latency_s,
            measured_at_s=entry.measured_at_s,
        )
        for one in nodes
        for two in nodes
        if one.id != two.id and (entry := _link(entries, one, two)) is not None
    )


def _speeds(
    entries: Iterable[DeviceEntry], node: NodeProfile, device: DeviceProfile
) -> tuple[KnownSpeed, ...]:
    latest: dict[tuple[str, str], DeviceEntry] = {}
    for entry in entries:
        if entry.is_of(node, device) and not entry.key.sequence_length:
            latest.setdefault((entry.model_name, entry.key.dtype), entry)
    return tuple(_speed(entry) for entry in list(latest.values())[:MAX_MODELS])


def _speed(entry: DeviceEntry) -> KnownSpeed:
    speed, rows = entry.measured.speed, entry.key.prefill_rows[-1]
    decode_s = speed.overhead_s + sum(item.decode.at(1) for item in speed.items)
    prefill_s = speed.overhead_s + sum(item.prefill.at(rows) for item in speed.items)
    return KnownSpeed(
        model=entry.model_name,
        dtype=entry.key.dtype,
        decode_tokens_per_s=1 / decode_s if decode_s else 0.0,
        prefill_tokens_per_s=rows / prefill_s if prefill_s else 0.0,
        measured_at_s=entry.measured_at_s,
    )


def _link(entries: Iterable[LinkEntry], one: NodeProfile, two: NodeProfile) -> LinkEntry | None:
    ends = (known_as(one), known_as(two))
    return next((each for each in entries if (each.key.sender, each.key.receiver) == ends), None)
