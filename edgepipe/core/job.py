"""One job's life: from leases to a ring that generates.

    leases, one after another ─▶ weights and loading, all at once ─▶ boundaries ─▶ running
         │ refused: release all, back off, begin again

Events go in, instructions come out; the shell (edgepipe.coordinator.pipeline) carries them out
and knows nothing else. A stage is named by its index in the ring.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import assert_never

from edgepipe.core.frame import SampledToken, SequenceId
from edgepipe.core.sampling import Sampling

MAX_LEASE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate. `prompt_logits` asks for the logits of the prompt's rows."""

    sequence: SequenceId
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    eos_ids: frozenset[int]
    prompt_logits: bool = False


# ------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The plan is shown; begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseGranted:
    """The stage's device is ours, under this fence."""

    stage: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRefused:
    """Somebody else holds the stage's device."""

    stage: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedOff:
    """The wait after a refusal is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsProvided:
    """The stage's agent holds every part that the stage needs."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoaded:
    """The stage holds its weights."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConnected:
    """The stage reached the next one."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """Somebody wants a sequence."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceAdmitted:
    """A stage knows the sequence."""

    stage: int
    sequence: SequenceId


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenSampled:
    """The last stage sampled a token."""

    sampled: SampledToken


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequested:
    """Nobody wants the rest of the sequence."""

    sequence: SequenceId


Event = (
    Started
    | LeaseGranted
    | LeaseRefused
    | BackedOff
    | WeightsProvided
    | StageLoaded
    | StageConnected
    | Requested
    | SequenceAdmitted
    | TokenSampled
    | CancelRequested
)

# ------------------------------------------------------------------------------- instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireLease:
    """Ask the stage's agent for its device."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseLeases:
    """Give back the devices of these stages, under these fences."""

    fences: dict[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """Wait, the longer the higher `attempt`, jittered; then say BackedOff."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvideWeights:
    """Send the stage's agent the parts that it lacks."""

    stage: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStage:
    """Open the stage's stream and have it load its layers."""

    stage: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectStage:
    """Have the stage dial the next one of the ring; `fence` is of that one's device."""

    stage: int
    next_stage: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnounceReady:
    """The ring is closed: requests flow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitSequence:
    """Tell a stage of a sequence."""

    stage: int
    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelSequence:
    """Have a stage forget a sequence."""

    stage: int
    sequence: SequenceId


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitToken:
    """Hand a token to whoever asked for its sequence."""

    sampled: SampledToken


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpLeases:
    """Every attempt was refused: the job cannot start. Its shell gives back what it holds."""

    reason: str


Instruction = (
    AcquireLease
    | ReleaseLeases
    | BackOff
    | ProvideWeights
    | LoadStage
    | ConnectStage
    | AnnounceReady
    | AdmitSequence
    | CancelSequence
    | EmitToken
    | GiveUpLeases
)

# ---------------------------------------------------------------------------------------- job


class Phase(StrEnum):
    """Where a job stands."""

    LEASING = "leasing"
    LOADING = "loading"
    CONNECTING = "connecting"
    RUNNING = "running"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class Job:
    """The coordinator's state of one job with `num_stages` stages, in ring order.

    `lease_order` lists the stages by node, the order in which every coordinator asks. `fences`
    are the leases it holds, by stage: to be given back when it is over.
    """

    num_stages: int
    lease_order: tuple[int, ...]
    phase: Phase = Phase.LEASING
    fences: dict[int, int] = field(default_factory=dict)
    _attempt: int = 0
    _loaded: set[int] = field(default_factory=set)
    _connected: set[int] = field(default_factory=set)
    _waiting: list[Request] = field(default_factory=list)
    _requests: dict[SequenceId, Request] = field(default_factory=dict)

    def handle(self, event: Event) -> list[Instruction]:  # noqa: C901, PLR0911 -- a case per event
        """Take an event in; what to do now, in order."""
        match event:
            case Started() | BackedOff():
                return [AcquireLease(stage=self.lease_order[0])]
            case LeaseGranted():
                return self._granted(event)
            case LeaseRefused():
                return self._refused(event)
            case WeightsProvided():
                return [LoadStage(stage=event.stage, fence=self.fences[event.stage])]
            case StageLoaded():
                return self._stage_loaded(event.stage)
            case StageConnected():
                return self._stage_connected(event.stage)
            case Requested():
                return self._request(event.request)
            case SequenceAdmitted():
                return self._admitted(event)
            case TokenSampled():
                return self._token(event.sampled)
            case CancelRequested():
                return self._cancel(event.sequence)
            case _:
                assert_never(event)

    def _granted(self, event: LeaseGranted) -> list[Instruction]:
        self.fences[event.stage] = event.fence
        if len(self.fences) < self.num_stages:
            return [AcquireLease(stage=self.lease_order[len(self.fences)])]
        self.phase = Phase.LOADING
        return [ProvideWeights(stage=stage) for stage in range(self.num_stages)]

    def _refused(self, event: LeaseRefused) -> list[Instruction]:
        self._attempt += 1
        if self._attempt == MAX_LEASE_ATTEMPTS:
            self.phase = Phase.FAILED
            return [GiveUpLeases(reason=event.reason)]
        fences, self.fences = self.fences, {}
        release: list[Instruction] = [ReleaseLeases(fences=fences)] if fences else []
        return [*release, BackOff(attempt=self._attempt)]

    def _stage_loaded(self, stage: int) -> list[Instruction]:
        self._loaded.add(stage)
        if len(self._loaded) < self.num_stages:
            return []
        self.phase = Phase.CONNECTING
        return [
            ConnectStage(stage=stage, next_stage=following, fence=self.fences[following])
            for stage in range(self.num_stages)
            for following in [(stage + 1) % self.num_stages]
        ]

    def _stage_connected(self, stage: int) -> list[Instruction]:
        self._connected.add(stage)
        if len(self._connected) < self.num_stages:
            return []
        self.phase = Phase.RUNNING
        waiting, self._waiting = self._waiting, []
        admit = [instruction for request in waiting for instruction in self._request(request)]
        return [AnnounceReady(), *admit]

    def _request(self, request: Request) -> list[Instruction]:
        """The last stage learns of a sequence first: its rows must not arrive unknown."""
        if self.phase is not Phase.RUNNING:
            self._waiting.append(request)
            return []
        self._requests[request.sequence] = request
        return [AdmitSequence(stage=self.num_stages - 1, request=request)]

    def _admitted(self, event: SequenceAdmitted) -> list[Instruction]:
        request = self._requests.get(event.sequence)
        if request is None or event.stage != self.num_stages - 1 or self.num_stages == 1:
            return []
        return [AdmitSequence(stage=0, request=request)]

    def _token(self, sampled: SampledToken) -> list[Instruction]:
        if sampled.sequence not in self._requests:
            return []
        if sampled.finish is not None:
            del self._requests[sampled.sequence]
        return [EmitToken(sampled=sampled)]

    def _cancel(self, sequence: SequenceId) -> list[Instruction]:
        self._waiting = [request for request in self._waiting if request.sequence != sequence]
        if self._requests.pop(sequence, None) is None:
            return []
        stages = sorted({0, self.num_stages - 1})
        return [CancelSequence(stage=stage, sequence=sequence) for stage in stages]
