"""Fills a survey from real agents: what is kept is used, the rest is measured and kept.

devices of one machine   one after another, machines at once, each under a lease of its own
links                    one after another, once all devices are measured and free again
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from edgepipe.coordinator.borrowing import Held, Spot, borrowed
from edgepipe.coordinator.link_survey import Links, NoLink, survey_links
from edgepipe.coordinator.nodes import Roster
from edgepipe.coordinator.profiles import (
    DeviceEntry,
    DeviceKey,
    LinkKey,
    Profiles,
    device_key,
)
from edgepipe.core.candidates import Candidate
from edgepipe.core.fit import Workload
from edgepipe.core.measured import FAR_POSITIONS, MAX_PREFILL_ROWS, Measured, Measurement
from edgepipe.core.model import ModelShape
from edgepipe.core.problem import Nic
from edgepipe.core.reach import is_loopback
from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed, Link
from edgepipe.core.survey import Survey
from edgepipe.core.weight_format import WeightFormat
from edgepipe.errors import EdgepipeError, LeaseHeld, first_of

SHARE_OF_FREE_MEMORY = 0.7
"""Of what is free on a device, for weights and caches of what is measured: activations too want
room."""


ROOMLESS_S = 1.0


class Measuring(Protocol):
    """Shows a person how far the measuring has come; nothing is called for what is kept."""

    def measuring(self, what: str, done: int, total: int) -> None:
        """`what` is a device, `desk (cpu)`, or a pair, `desk to attic`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured:
    """A device that no plan can use, and why."""

    node: str
    device: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """A survey, what is missing in it, and where each of its figures is kept."""

    survey: Survey
    left_out: tuple[NotMeasured, ...] = ()
    unlinked: tuple[NoLink, ...] = ()
    device_keys: Mapping[tuple[str, str], DeviceKey] = field(default_factory=dict)
    link_keys: Mapping[tuple[str, str], LinkKey] = field(default_factory=dict)
    num_measured: int = 0

    def forget_device(self, home: Path, node: str, device: str) -> None:
        """Drop a device's figures: the next survey measures it anew."""
        Profiles(home=home).forget(self.device_keys[node, device])

    def forget_link(self, home: Path, sender: str, receiver: str) -> None:
        """Drop the figures of a link between two nodes, one way; nothing where it has none."""
        key = self.link_keys.get((sender, receiver))
        if key is not None:
            Profiles(home=home).forget(key)

    def forget_hop(self, home: Path, sender: tuple[str, str], receiver: tuple[str, str]) -> None:
        """Drop what a hop between two devices was predicted from.

        The link's figures, and the sender's where its runtime takes longer than the link.
        """
        devices: dict[tuple[str, str], tuple[Candidate, DeviceSpeed]] = {
            each.key: (each, speed)
            for each, speed in zip(self.survey.devices, self.survey.speeds, strict=True)
        }
        (ours, speed), (theirs, _) = devices[sender], devices[receiver]
        if sender == receiver or speed.overhead_s > self.survey.link(ours, theirs).latency_s:
            self.forget_device(home, *sender)
        self.forget_link(home, sender[0], receiver[0])


async def survey(
    roster: Roster,
    config: Mapping[str, Any],
    shape: ModelShape,
    *,
    workload: Workload,
    sequence_length: int = 0,
    rank: int = 0,
    engines: Sequence[str] = ("torch",),
    offsets: bool = False,
    faster: Callable[[Sequence[DeviceSpeed]], DeviceSpeed] = itemgetter(0),
    nodes: Collection[str] | None = None,
    held: Held = MappingProxyType({}),
    fresh: bool = False,
    home: Path,
    now_s: float,
    progress: Measuring,
) -> Surveyed:
    """The free devices of a roster, how fast they run the model, and the links between them.

    Args:
        roster: who is here.
        config: the model's Hugging Face config.
        shape: its sizes.
        workload: the dtype, and the numbers of rows that are measured.
        sequence_length: of a training microbatch; 0 where training is not wanted.
        rank: of the adapters that are trained; 0 where all weights are.
        engines: those that may be used, of which a device has all, some or none.
        offsets: whether the blocks in the model's file have some; see `Measurement`.
        faster: the speed to plan with, of those that a device's engines reach.
        nodes: the names of those that matter; all where it is None.
        held: devices on which stages of ours run: known already, or left out.
        fresh: measure even what is known.
        home: where figures are kept.
        now_s: the time of day, noted in what is kept.
        progress: told of every step.

    A device that is leased or cannot be measured is left out, and a pair without a link named,
    with reasons.
    """
    spots = _free(roster, nodes)
    work = _Surveying(
        config=config,
        shape=shape,
        workload=workload,
        sequence_length=sequence_length,
        rank=rank,
        engines=engines,
        offsets=offsets,
        faster=faster,
        held=held,
        fresh=fresh,
        profiles=Profiles(home=home),
        now_s=now_s,
        progress=progress,
        job=f"survey-{secrets.token_hex(4)}",
    )
    try:
        await work.devices(spots)
    except BaseExceptionGroup as failures:
        raise first_of(failures) from failures
    usable = [spot for spot in spots if spot.key in work.speeds]
    links = await survey_links(
        [spot for spot in usable if spot.key in work.entries],
        profiles=work.profiles,
        fresh=fresh,
        now_s=now_s,
        job=work.job,
        measuring=progress.measuring,
        held=held,
    )
    return work.surveyed(usable, links, leased=_leased(roster, nodes))


@dataclass(slots=True, kw_only=True)
class _Surveying:
    config: Mapping[str, Any]
    shape: ModelShape
    workload: Workload
    sequence_length: int
    rank: int
    engines: Sequence[str]
    offsets: bool
    faster: Callable[[Sequence[DeviceSpeed]], DeviceSpeed]
    held: Held
    fresh: bool
    profiles: Profiles
    now_s: float
    progress: Measuring
    job: str
    entries: dict[tuple[str, str], DeviceEntry] = field(default_factory=dict)
    speeds: dict[tuple[str, str], DeviceSpeed] = field(default_factory=dict)
    left_out: list[NotMeasured] = field(default_factory=list)
    measured: set[DeviceKey] = field(default_factory=set)

    def surveyed(
        self, usable: Sequence[Spot], links: Links, *, leased: Iterable[NotMeasured]
    ) -> Surveyed:
        """All that was found, and where it is kept."""
        return Surveyed(
            survey=Survey(
                devices=tuple(spot.candidate for spot in usable),
                speeds=tuple(self.speeds[spot.key] for spot in usable),
                links=links.links,
                nics=nics_of(usable, links.links),
            ),
            left_out=(*leased, *self.left_out),
            unlinked=links.missing,
            device_keys={key: entry.key for key, entry in self.entries.items()},
            link_keys=links.keys,
            num_measured=len(self.measured) + len(links.measured),
        )

    async def devices(self, spots: Sequence[Spot]) -> None:
        """Look up or measure every device."""
        machines: dict[str, list[Spot]] = {}
        for spot in spots:
            profile = spot.node.profile
            machines.setdefault(profile.machine_id or profile.host_id, []).append(spot)
        async with asyncio.TaskGroup() as tasks:
            for members in machines.values():
                tasks.create_task(self._machine(members))

    async def _machine(self, spots: Sequence[Spot]) -> None:
        for spot in spots:
            await self._device(spot)

    async def _device(self, spot: Spot) -> None:
        engines = [name for name in self.engines if name in spot.device.engines]
        if not engines:
            self.left_out.append(_not_measured(spot, _without(self.engines)))
            return
        if not self._has_room(self._asked(spot, engines[0])):
            self.speeds[spot.key] = replace(self._slow(), engine=engines[0])
            return
        found: list[DeviceEntry] = []
        for engine in engines:
            try:
                found.append(await self._entry(spot, self._asked(spot, engine)))
            except EdgepipeError as error:
                if engine == engines[-1] and not found:
                    self.left_out.append(_not_measured(spot, str(error)))
        if found:
            best = self.faster([entry.speed for entry in found])
            self.speeds[spot.key] = best
            self.entries[spot.key] = next(e for e in found if e.key.engine == best.engine)

    async def _entry(self, spot: Spot, asked: Measurement) -> DeviceEntry:
        """What is kept, or else measured. Raises EdgepipeError where neither can be."""
        key = device_key(self.config, asked, spot.node.profile, spot.device)
        kept = self.profiles.device(key)
        if kept is not None and not self._fits(kept.measured):
            kept = None
        if kept is None or (self.fresh and key not in self.measured):
            try:
                kept = await self._measure(spot, asked, key)
            except LeaseHeld:
                if kept is None:
                    raise
        return kept

    def _has_room(self, asked: Measurement) -> bool:
        """Whether a layer fits: without one nothing can be measured, and nothing be placed."""
        sizes = [
            self.shape.weight_bytes((layer,), asked.dtype, asked.weight_format)
            for layer in self.shape.layers
        ]
        return asked.memory_bytes >= min(sizes)

    def _slow(self) -> DeviceSpeed:
        """What stands for the speed of a device without room: a plan only says what it lacks."""
        curve = Curve.flat(ROOMLESS_S)
        item = ItemSpeed(decode=curve, prefill=curve, forward=curve, backward=curve)
        return DeviceSpeed(items=(item,) * (self.shape.num_layers + 2))

    async def _measure(self, spot: Spot, asked: Measurement, key: DeviceKey) -> DeviceEntry:
        if spot.key in self.held:
            raise LeaseHeld("a stage of ours runs on it, and it was not measured before")
        async with borrowed(spot, self.job) as worker:
            measured = await worker.profile(
                self.config,
                asked,
                lambda done, total: self.progress.measuring(spot.who, done, total),
            )
        if not self._fits(measured):
            raise EdgepipeError(f"{spot.who} measured another model: update its edgepipe")
        entry = DeviceEntry(
            measured_at_s=self.now_s, key=key, measured=measured, model_name=self.shape.name
        )
        self.profiles.keep(entry)
        self.measured.add(key)
        return entry

    def _fits(self, measured: Measured) -> bool:
        return len(measured.items.kinds) == self.shape.num_layers

    def _asked(self, spot: Spot, engine: str) -> Measurement:
        """Points that do not change from prompt to prompt, or nothing would ever be known."""
        device = spot.device
        free = min(device.memory_limit_bytes - device.baseline_bytes, device.memory_free_bytes)
        weight_format = self.workload.weight_format
        keeps_blocks = engine == "onnx" and weight_format is WeightFormat.INT4
        return Measurement(
            dtype=self.workload.dtype,
            num_slots=1 << (self.workload.num_slots - 1).bit_length(),
            max_positions=min(self.shape.max_positions, FAR_POSITIONS + MAX_PREFILL_ROWS),
            prefill_chunk=self.workload.prefill_chunk,
            sequence_length=self.sequence_length,
            rank=self.rank,
            memory_bytes=max(0, int(SHARE_OF_FREE_MEMORY * free)),
            engine=engine,
            weight_format=weight_format,
            offsets=self.offsets and keeps_blocks,
        )


def _without(engines: Sequence[str]) -> str:
    """Why a device is of no use that has none of the engines."""
    if "onnx" in engines:
        return "it has no ONNX Runtime: pip install 'edgepipe[onnx]' on that machine"
    return f"it has no engine {' or '.join(engines)}"


def _not_measured(spot: Spot, reason: str) -> NotMeasured:
    node, device = spot.key
    return NotMeasured(node=node, device=device, reason=reason.removeprefix(f"{node} ({device}): "))


def _free(roster: Roster, nodes: Collection[str] | None) -> list[Spot]:
    """The devices that nobody leases, of these nodes or of all."""
    return [
        Spot(node=node, device=device)
        for node in roster.usable
        for device in node.profile.devices
        if device.lease is None and (nodes is None or node.profile.name in nodes)
    ]


def _leased(roster: Roster, nodes: Collection[str] | None) -> Iterator[NotMeasured]:
    """Devices that others use; a node of which all are leased is not among the usable ones."""
    for node in roster.nodes.values():
        for device in node.profile.devices:
            if device.lease is not None and (nodes is None or node.profile.name in nodes):
                reason = f"it is leased to job {device.lease.job} of {device.lease.holder}"
                yield _not_measured(Spot(node=node, device=device), reason)


def nics_of(spots: Sequence[Spot], links: Sequence[Link]) -> dict[str, Nic]:
    """What each host's NIC carries: the best of its links to other hosts, either way."""
    host_of = {spot.node.profile.name: spot.node.profile.host_id for spot in spots}
    nics = {}
    for host in dict.fromkeys(host_of.values()):
        sent = [
            link.bytes_per_s
            for link in links
            if host_of[link.sender] == host != host_of[link.receiver]
        ]
        received = [
            link.bytes_per_s
            for link in links
            if host_of[link.receiver] == host != host_of[link.sender]
        ]
        if sent and received:
            nics[host] = Nic(
                send_bytes_per_s=max(sent),
                receive_bytes_per_s=max(received),
                medium="wifi" if _is_wireless(spots, host) else None,
            )
    return nics


def _is_wireless(spots: Sequence[Spot], host: str) -> bool:
    """Whether the host is on the LAN by Wi-Fi alone."""
    names = {
        address.interface
        for spot in spots
        if spot.node.profile.host_id == host
        for address in spot.node.profile.addresses
        if not is_loopback(address.host)
    }
    return bool(names) and all(name.startswith("wl") for name in names)
