"""Finds the nodes that are here now, quickly."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog

from edgepipe.core.cluster import Appeared, MemberKey, NodeSighting, Withdrawn
from edgepipe.core.profile import Address
from edgepipe.discovery.browser import Browser
from edgepipe.discovery.peers import static_sightings

DEADLINE_S = 3.0
SETTLE_S = 1.25
"""How long after the last new node the search ends. The question is asked at once and again
after a second, so a node has two chances (multicast over Wi-Fi is lossy) before that."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Found:
    cluster: str
    sightings: dict[MemberKey, NodeSighting] = field(default_factory=dict)

    def take(self, event: Appeared | Withdrawn) -> bool:
        """True where the event brought a node of our cluster that is new."""
        if isinstance(event, Withdrawn):
            self.sightings.pop(event.key, None)
            return False
        sighting = event.sighting
        is_new = sighting.key not in self.sightings
        self.sightings[sighting.key] = sighting
        return is_new and sighting.cluster == self.cluster

    @property
    def ours(self) -> tuple[NodeSighting, ...]:
        """Those that may be in our cluster: a static peer has not said yet."""
        everyone = self.sightings.values()
        return tuple(s for s in everyone if s.id is None or s.cluster == self.cluster)


async def browse(
    *,
    cluster: str,
    hosts: Sequence[str],
    peers: Sequence[Address] = (),
    enough: Callable[[Sequence[NodeSighting]], bool] = lambda _: False,
    deadline_s: float = DEADLINE_S,
    settle_s: float = SETTLE_S,
) -> tuple[NodeSighting, ...]:
    """The nodes that mDNS shows, of any cluster, and the static peers.

    Where mDNS cannot be spoken at all, that is logged, and the static peers are what there is.

    It ends when `enough` holds for those of `cluster`; else `settle_s` after the last of them
    appeared; else, where there is none, at the deadline.

    Args:
        cluster: whose nodes are waited for.
        hosts: where to speak mDNS, see `addresses.multicast_hosts`.
        peers: static peers, which count as found.
        enough: whether these nodes are all that is wanted.
        deadline_s: the longest that it takes.
        settle_s: how long nothing new is waited for.
    """
    found = _Found(cluster=cluster, sightings={s.key: s for s in static_sightings(peers)})
    try:
        async with Browser(hosts) as browser:
            await _collect(browser, found, enough, deadline_s=deadline_s, settle_s=settle_s)
    except OSError as error:
        _log.warning("mDNS cannot be used: only static peers are found", because=str(error))
    return tuple(found.sightings.values())


async def _collect(
    browser: Browser,
    found: _Found,
    enough: Callable[[Sequence[NodeSighting]], bool],
    *,
    deadline_s: float,
    settle_s: float,
) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_s
    quiet = loop.time() + settle_s if found.ours else deadline
    while not enough(found.ours):
        try:
            async with asyncio.timeout_at(min(quiet, deadline)):
                is_news = found.take(await anext(browser))
        except TimeoutError:
            return
        if is_news:
            quiet = loop.time() + settle_s
