"""Who is here, for as long as a server runs: mDNS is followed, and everybody asked at each look.

A static peer that is down is asked again each time; so is a node whose advertisement outlived it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from edgepipe.coordinator.nodes import Roster, Search, meet_nodes, sightings
from edgepipe.core.cluster import Appeared, MemberKey, NodeSighting, Withdrawn
from edgepipe.core.holding import Holding
from edgepipe.discovery.browser import MAX_INSTANCES, Browser
from edgepipe.discovery.peers import static_sightings

LOOK_S = 2.0
"""Between two looks."""
ANSWER_S = 2.0
"""How long a node may take to describe itself before it counts as gone until the next look."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Lookout:
    """What is seen from here. What `holding` names counts as free."""

    search: Search
    holding: Holding
    _seen: dict[MemberKey, NodeSighting] = field(default_factory=dict)

    async def search_first(self) -> None:
        """Search as long as one command does."""
        for sighting in await sightings(self.search):
            self._seen[sighting.key] = sighting

    async def watch(self) -> None:
        """Follow mDNS until cancelled, where it is spoken."""
        if not self.search.hosts:
            return
        try:
            async with Browser(self.search.hosts) as browser:
                async for event in browser:
                    self._take(event)
        except OSError as error:
            _log.warning("mDNS cannot be used: only static peers come back", because=str(error))

    def _take(self, event: Appeared | Withdrawn) -> None:
        match event:
            case Withdrawn(key=key):
                self._seen.pop(key, None)
            case Appeared(sighting=sighting):
                if sighting.key in self._seen or len(self._seen) < MAX_INSTANCES:
                    self._seen[sighting.key] = sighting

    @asynccontextmanager
    async def look(self, *, answer_s: float = ANSWER_S) -> AsyncIterator[Roster]:
        """Talk to everybody; the channels close on leaving."""
        peers = {sighting.key: sighting for sighting in static_sightings(self.search.peers)}
        found = {**self._seen, **peers}.values()
        meeting = meet_nodes(self.search, found, holding=self.holding, deadline_s=answer_s)
        async with meeting as roster:
            yield roster
