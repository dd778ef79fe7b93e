"""The links of a survey: one device of each node, every ordered pair, one after another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType

from edgepipe.coordinator.borrowing import Held, Spot, lent
from edgepipe.coordinator.profiles import LinkEntry, LinkKey, Profiles, known_as
from edgepipe.coordinator.worker_calls import LinkFigures, WorkerCalls
from edgepipe.core.speed import Link
from edgepipe.errors import EdgepipeError


@dataclass(frozen=True, slots=True, kw_only=True)
class NoLink:
    """Two nodes of which one cannot reach the other, and why."""

    sender: str
    receiver: str
    reason: str


@dataclass(slots=True, kw_only=True)
class Links:
    """The links that are known, by the names of their nodes, and those that are not."""

    found: dict[tuple[str, str], LinkEntry] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    measured: set[LinkKey] = field(default_factory=set)

    @property
    def links(self) -> tuple[Link, ...]:
        """For the survey."""
        return tuple(
            Link(
                sender=sender,
                receiver=receiver,
                bytes_per_s=entry.bytes_per_s,
                latency_s=entry.latency_s,
            )
            for (sender, receiver), entry in self.found.items()
        )

    @property
    def missing(self) -> tuple[NoLink, ...]:
        """Pairs without a link."""
        return tuple(
            NoLink(sender=sender, receiver=receiver, reason=reason)
            for (sender, receiver), reason in self.reasons.items()
        )

    @property
    def keys(self) -> Mapping[tuple[str, str], LinkKey]:
        """Where each link's figures are kept."""
        return {pair: entry.key for pair, entry in self.found.items()}


async def survey_links(
    spots: Sequence[Spot],
    *,
    profiles: Profiles,
    fresh: bool,
    now_s: float,
    job: str,
    measuring: Callable[[str, int, int], None],
    held: Held = MappingProxyType({}),
) -> Links:
    """Look up or measure the link of every ordered pair of nodes; `held` devices are not leased."""
    pairs = {(a.node.profile.name, b.node.profile.name): (a, b) for a, b in _pairs(spots)}
    links = Links()
    if not fresh:
        links.found = {
            names: kept for names, pair in pairs.items() if (kept := _kept(profiles, *pair))
        }
    unknown = {names: pair for names, pair in pairs.items() if names not in links.found}
    async with _borrowed_ends(unknown.values(), job, held) as ends:
        for index, (names, pair) in enumerate(unknown.items()):
            known = _kept(profiles, *pair)
            if known is None or (fresh and known.key not in links.measured):
                measuring(" to ".join(names), index, len(unknown))
                await _measured(links, names, pair, known, ends, now_s=now_s)
                if names in links.found:
                    profiles.keep(links.found[names])
            else:
                links.found[names] = known
            measuring(" to ".join(names), index + 1, len(unknown))
    return links


def _pairs(spots: Sequence[Spot]) -> Iterator[tuple[Spot, Spot]]:
    """One device of every node with one of every other; two of one node that has several."""
    nodes: dict[str, list[Spot]] = {}
    for spot in spots:
        nodes.setdefault(spot.node.profile.id, []).append(spot)
    for name, own in nodes.items():
        for other, theirs in nodes.items():
            if name != other:
                yield own[0], theirs[0]
            elif len(own) > 1:
                yield own[0], own[1]


def _kept(profiles: Profiles, sender: Spot, receiver: Spot) -> LinkEntry | None:
    """What is known of any way between two nodes, the receiver's first address first."""
    keys = (_key(sender, receiver, address.host) for address in receiver.reached_from(sender))
    return next((entry for key in keys if (entry := profiles.link(key))), None)


def _key(sender: Spot, receiver: Spot, host: str) -> LinkKey:
    return LinkKey(
        sender=known_as(sender.node.profile), receiver=known_as(receiver.node.profile), address=host
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ends:
    """The workers at the ends of the pairs; for a device that could not be leased, why."""

    job: str
    workers: dict[tuple[str, str], WorkerCalls] = field(default_factory=dict)
    refusals: dict[tuple[str, str], EdgepipeError] = field(default_factory=dict)

    async def measure(self, sender: Spot, receiver: Spot) -> LinkFigures:
        """Raises as `WorkerCalls.measure_link`, and what a lease was refused with."""
        for end in (sender, receiver):
            if end.key in self.refusals:
                raise self.refusals[end.key]
        return await self.workers[sender.key].measure_link(
            receiver.reached_from(sender),
            job=self.job,
            fence=self.workers[receiver.key].fence,
            node=receiver.node.profile.name,
        )


@asynccontextmanager
async def _borrowed_ends(
    pairs: Iterable[tuple[Spot, Spot]], job: str, held: Held
) -> AsyncIterator[_Ends]:
    """Lease both ends of every pair, in the order in which every coordinator does."""
    spots = {spot.key: spot for pair in pairs for spot in pair}
    ends = _Ends(job=job)
    async with AsyncExitStack() as stack:
        for key, spot in sorted(spots.items(), key=lambda each: each[1].order):
            try:
                ends.workers[key] = await stack.enter_async_context(lent(spot, job, held))
            except EdgepipeError as error:
                ends.refusals[key] = error
        yield ends


async def _measured(
    links: Links,
    names: tuple[str, str],
    pair: tuple[Spot, Spot],
    known: LinkEntry | None,
    ends: _Ends,
    *,
    now_s: float,
) -> None:
    """Note a pair's link; where it cannot be measured, what was known of it, or why not."""
    try:
        figures = await ends.measure(*pair)
    except EdgepipeError as error:
        if known is None:
            links.reasons[names] = str(error)
        else:
            links.found[names] = known
        return
    links.found[names] = LinkEntry(
        measured_at_s=now_s,
        key=_key(*pair, figures.address.host),
        bytes_per_s=figures.bytes_per_s,
        latency_s=figures.latency_s,
    )
    links.measured.add(links.found[names].key)
