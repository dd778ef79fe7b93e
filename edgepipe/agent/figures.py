"""What a worker has done since it started: plain numbers, read when somebody scrapes the agent.

Each number has one writer, the event loop or one of the worker's two threads, so none is locked.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

from edgepipe.core.frame import Codec
from edgepipe.core.order import Task, Work
from edgepipe.core.schedule import Kind
from edgepipe.core.training import Purpose

STEP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
MAX_LINKS = 256
"""Peers come and go, and others name them: traffic with further ones is counted under `OTHER`."""
OTHER = "other"

_PEER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

Result = TypeVar("Result")


class Pass(StrEnum):
    """What the compute thread is busy with. An evaluation's forwards are no training's."""

    GENERATE = "generate"
    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"
    EVALUATE = "evaluate"


class Way(StrEnum):
    """Of a frame, as this worker sees it."""

    SENT = "sent"
    RECEIVED = "received"


class Content(StrEnum):
    """What frames carry; `embedding` are rows of a tied one, and their ids and gradients."""

    ACTIVATIONS = "activations"
    GRADIENTS = "gradients"
    TOKENS = "tokens"
    EMBEDDING = "embedding"


class LinkKey(NamedTuple):
    """Frames that are counted together."""

    peer: str
    way: Way
    content: Content
    codec: Codec


@dataclass(slots=True)
class Traffic:
    """Of one link, way, content and codec. Payloads are counted as they travel, without headers.

    Coding takes `inline_s` on the compute thread and `aside_s` on the coding thread. `stalled_s`
    is the time in which a frame was ready and had no credit.
    """

    num_frames: int = 0
    payload_bytes: int = 0
    inline_s: float = 0.0
    aside_s: float = 0.0
    stalled_s: float = 0.0
    _stalled_since_s: float | None = None

    def count(self, payload_bytes: int) -> None:
        """A frame went, or came; a stall is over."""
        self.num_frames += 1
        self.payload_bytes += payload_bytes
        if self._stalled_since_s is not None:
            self.stalled_s += time.perf_counter() - self._stalled_since_s
            self._stalled_since_s = None

    def stall(self) -> None:
        """A frame is ready and has no credit."""
        if self._stalled_since_s is None:
            self._stalled_since_s = time.perf_counter()

    def inline(self, code: Callable[[], Result]) -> Result:
        """Encode or decode, called on the compute thread."""
        begin_s = time.perf_counter()
        result = code()
        self.inline_s += time.perf_counter() - begin_s
        return result

    def aside(self, code: Callable[[], Result]) -> Result:
        """Encode or decode, called on the coding thread."""
        begin_s = time.perf_counter()
        result = code()
        self.aside_s += time.perf_counter() - begin_s
        return result


class ByCodec(dict[Codec, Traffic]):
    """The traffic of a link, way and content: a codec is counted from its first frame on."""

    def __init__(self, make: Callable[[Codec], Traffic]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, codec: Codec) -> Traffic:
        self[codec] = found = self._make(codec)
        return found


@dataclass(slots=True)
class Histogram:
    """Seconds in `STEP_BUCKETS_S`, and what is longer: `counts` has one more."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(STEP_BUCKETS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one in."""
        self.counts[bisect_left(STEP_BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass(slots=True)
class Figures:
    """Of one worker process. `rows` are positions of sequences, computed by this stage.

    `faults` are what ended stages, by the error's class.
    """

    busy_s: dict[Pass, float] = field(default_factory=lambda: dict.fromkeys(Pass, 0.0))
    passes: dict[Pass, int] = field(default_factory=lambda: dict.fromkeys(Pass, 0))
    rows: dict[Pass, int] = field(default_factory=lambda: dict.fromkeys(Pass, 0))
    sampled_tokens: int = 0
    applied_steps: int = 0
    skipped_steps: int = 0
    step_s: Histogram = field(default_factory=Histogram)
    dropped_frames: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    links: dict[LinkKey, Traffic] = field(default_factory=dict)

    def computed(self, kind: Pass, rows: int, seconds: float) -> None:
        """Some rows passed through the stage."""
        self.busy_s[kind] += seconds
        self.passes[kind] += 1
        self.rows[kind] += rows

    def took(self, work: Work, seconds: float) -> None:
        """A piece of training's work is done."""
        kind = pass_of(work)
        if work.task is Task.ACT:
            self.computed(kind, work.microbatch.num_rows, seconds)
        else:
            self.busy_s[kind] += seconds

    def traffic(self, peer: str | None, way: Way, content: Content) -> ByCodec:
        """Where to count such frames, by their codec. Without a peer they pass no link."""
        if peer is None:
            return ByCodec(lambda _codec: Traffic())
        known = peer if _PEER.fullmatch(peer) is not None else OTHER
        return ByCodec(lambda codec: self._link(LinkKey(known, way, content, codec)))

    def _link(self, key: LinkKey) -> Traffic:
        if key not in self.links and len(self.links) >= MAX_LINKS:
            key = key._replace(peer=OTHER)
        return self.links.setdefault(key, Traffic())


def pass_of(work: Work) -> Pass:
    """What a piece of training's work counts as."""
    if work.order.purpose is not Purpose.TRAIN:
        return Pass.EVALUATE
    if work.action is None:
        return Pass.UPDATE
    return Pass.FORWARD if work.action.kind is Kind.FORWARD else Pass.BACKWARD


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbours:
    """The nodes before and after a stage in the ring; None where a stage is its own neighbour."""

    upstream: str | None = None
    downstream: str | None = None
