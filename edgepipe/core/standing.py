"""A server's pipelines, one after another: when to plan anew, when to move, when to try again.

              Found                  Opened                   nobody runs, or worth it
 planning ────────────▶ opening ─────────────▶ standing ─────────────────────────────▶ moving
   ▲   │ NotFound          │ Lost             Lost │ ▲                                    │
   │   ▼                   ▼                       │ └──────── Opened ──── opening ◀──────┘ Closed
 waiting ◀─────────────────┘     back to planning ◀┘
   Waited, or a device appeared

While a pipeline stands, devices that appear are planned for beside it: the plan that is found is a
candidate, which is dropped, or moved to. Events come in, instructions go out; the shell
(edgepipe.coordinator.standing) carries them out. Every event says what time it is, in seconds of
one monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

MOVE_GAIN = 0.10
"""Answers that wait until those that run have ended cost about so much."""
IDLE_GAIN = 0.01
"""A move that nobody notices is worth it already where it gains more than figures are good for."""
MOVE_EVERY_S = 60.0
STEADY_S = 15.0
"""A pipeline that stood for so long was sound: what ended it is not tried again in vain."""
MIN_BACK_OFF_S, MAX_BACK_OFF_S = 1.0, 15.0

Devices = frozenset[tuple[str, str]]
"""By the names of node and device."""


class Why(StrEnum):
    """What a pipeline was planned for."""

    STARTED = "started"
    LOST = "lost"
    JOINED = "joined"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A plan in the terms of this decision.

    `considered` are the devices that it was made over, `used` those of its stages. It is `as_asked`
    where it has the shape that the user asked for. `seconds` are its objective's figure, None where
    nothing is predicted.
    """

    used: Devices
    considered: Devices
    as_asked: bool = True
    seconds: float | None = None


# ------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The server begins."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """The devices that could be used now, those that the server itself holds included."""

    devices: Devices
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was planned fits."""

    offer: Offer
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NotFound:
    """There is no plan over the devices that were considered, and why."""

    reason: str
    considered: Devices = frozenset()
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The pipeline stands."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """The pipeline broke, or could not be deployed."""

    reason: str
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The pipeline that was to end has ended."""

    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """So many sequences run now."""

    num_running: int
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """The wait before the next attempt is over."""

    now_s: float


Event = Started | Looked | Found | NotFound | Opened | Lost | Closed | Loaded | Waited

# ------------------------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePlan:
    """Look who is here, and plan; then say Found or NotFound."""

    why: Why


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Deploy what was found; then say Opened, and Lost once it breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Give up the plan that is being made beside the pipeline, or was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """End the pipeline; then say Closed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Start no sequence for now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Start sequences again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """Wait, see `back_off_s`; then say Waited."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """There is no pipeline, for this reason, which the operator does not know yet if `is_news`."""

    reason: str
    is_news: bool


Instruction = MakePlan | Open | Drop | Close | Hold | Admit | BackOff | Missing


def gain(current: Offer, other: Offer) -> float:
    """By how much the other plan is faster than the current one, as a share.

    The shape that was asked for comes before any speed.
    """
    if current.as_asked is not other.as_asked:
        return math.inf if other.as_asked else -math.inf
    if not current.seconds or not other.seconds:
        return 0.0
    return current.seconds / other.seconds - 1


def back_off_s(attempt: int, draw: float) -> float:
    """How long to wait before an attempt, from the first on; `draw` is uniform in [0, 1)."""
    base_s = min(MAX_BACK_OFF_S, MIN_BACK_OFF_S * 2.0 ** min(attempt - 1, 10))
    return min(MAX_BACK_OFF_S, max(MIN_BACK_OFF_S, base_s * (0.75 + draw / 2)))


# ------------------------------------------------------------------------------------ decisions


class Phase(StrEnum):
    """Where a server stands."""

    PLANNING = "planning"
    WAITING = "waiting"
    OPENING = "opening"
    STANDING = "standing"
    MOVING = "moving"


@dataclass(slots=True, kw_only=True)
class Standing:
    """The state of one server."""

    phase: Phase = Phase.PLANNING
    is_planning_beside: bool = False
    current: Offer | None = None
    candidate: Offer | None = None
    considered: Devices = frozenset()
    is_holding: bool = False
    num_running: int = 0
    _num_misses: int = 0
    _num_breaks: int = 0
    _reason: str = ""
    _opened_s: float = -math.inf
    _moved_s: float = -math.inf
    _why: Why = field(default=Why.STARTED)

    def handle(self, event: Event) -> list[Instruction]:  # noqa: PLR0911 -- a case per event
        """Take an event in; what to do now, in order."""
        match event:
            case Started():
                return [MakePlan(why=self._why)]
            case Looked():
                return self._looked(event)
            case Found():
                return self._found(event)
            case NotFound():
                return self._not_found(event)
            case Opened():
                return self._opened(event.now_s)
            case Lost():
                return self._lost(event)
            case Closed():
                return self._closed(event.now_s)
            case Loaded():
                self.num_running = event.num_running
                return self._weigh(event.now_s)
            case Waited():
                return self._plan() if self.phase is Phase.WAITING else []
            case _:
                assert_never(event)

    def _plan(self) -> list[Instruction]:
        self.phase = Phase.PLANNING
        return [MakePlan(why=self._why)]

    def _looked(self, event: Looked) -> list[Instruction]:
        """Plan for what is new; while a plan is made, which leases what it measures, look away."""
        if self.is_planning_beside or self.phase not in {Phase.WAITING, Phase.STANDING}:
            return []
        new = event.devices - self.considered
        self.considered &= event.devices
        if self.phase is Phase.STANDING:
            return self._looked_beside(event, new)
        return self._plan() if new else []

    def _looked_beside(self, event: Looked, new: Devices) -> list[Instruction]:
        stale = self.candidate is not None and not self.candidate.used <= event.devices
        dropped = self._drop() if new or stale else []
        if not new:
            return [*dropped, *self._weigh(event.now_s)]
        self.is_planning_beside = True
        return [*dropped, MakePlan(why=Why.JOINED)]

    def _found(self, event: Found) -> list[Instruction]:
        offer = event.offer
        self.considered = offer.considered
        if self.phase is Phase.PLANNING:
            self.current, self.phase, self._num_misses = offer, Phase.OPENING, 0
            return [Open()]
        assert self.current is not None, "it stands, and this was planned beside it"
        self.is_planning_beside = False
        if gain(self.current, offer) < IDLE_GAIN:
            return [Drop()]
        self.candidate = offer
        return self._weigh(event.now_s)

    def _not_found(self, event: NotFound) -> list[Instruction]:
        self.considered = event.considered
        if self.phase is Phase.PLANNING:
            self._num_misses += 1
            return self._wait(event.reason, self._num_misses)
        self.is_planning_beside = False
        return []

    def _wait(self, reason: str, attempt: int) -> list[Instruction]:
        self.phase = Phase.WAITING
        return [self._missing(reason), BackOff(attempt=attempt)]

    def _missing(self, reason: str) -> Missing:
        is_news = reason != self._reason
        self._reason = reason
        return Missing(reason=reason, is_news=is_news)

    def _opened(self, now_s: float) -> list[Instruction]:
        self.phase, self._opened_s, self._reason = Phase.STANDING, now_s, ""
        return [Admit()]

    def _lost(self, event: Lost) -> list[Instruction]:
        """Plan at once after a first break, later after a wait: what breaks again would spin."""
        if self.phase is Phase.MOVING:
            return self._closed(event.now_s)
        stood = self.phase is Phase.STANDING
        if stood and event.now_s - self._opened_s >= STEADY_S:
            self._num_breaks = 0
        self._num_breaks += 1
        dropped = [each for each in self._drop() if not isinstance(each, Admit)]
        self.current, self._why = None, Why.LOST
        if stood and self._num_breaks == 1:
            return [*dropped, self._missing(event.reason), *self._plan()]
        return [*dropped, *self._wait(event.reason, self._num_breaks)]

    def _closed(self, now_s: float) -> list[Instruction]:
        self.current, self.candidate = self.candidate, None
        self.phase, self.is_holding = Phase.OPENING, False
        self._moved_s, self._why = now_s, Why.JOINED
        return [Open()]

    def _drop(self) -> list[Instruction]:
        """Give up what is planned beside, and what was held for it."""
        beside = self.is_planning_beside or self.candidate is not None
        admit: list[Instruction] = [Admit()] if self.is_holding else []
        self.is_planning_beside, self.candidate, self.is_holding = False, None, False
        return [Drop(), *admit] if beside else []

    def _weigh(self, now_s: float) -> list[Instruction]:
        """Whether to move now: once nobody runs, or, where it is worth it, after those that run."""
        if self.phase is not Phase.STANDING or self.current is None or self.candidate is None:
            return []
        if self.num_running == 0:
            self.phase = Phase.MOVING
            return [Hold(), Close()]
        rested = now_s - self._moved_s >= MOVE_EVERY_S
        if self.is_holding or not rested or gain(self.current, self.candidate) < MOVE_GAIN:
            return []
        self.is_holding = True
        return [Hold()]
