"""A worker's figures at one moment, as it tells them its supervisor: one line of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, Self

from edgepipe.agent.figures import Figures
from edgepipe.agent.role import Depths


class LinkReading(NamedTuple):
    """What passed one link, one way, by one codec, since the worker started."""

    peer: str
    way: str
    content: str
    codec: str
    num_frames: int
    payload_bytes: int
    coding_s: float
    stalled_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """In bytes: the worker's resident set, the most it was for this stage, and what is loaded."""

    resident_bytes: int
    peak_bytes: int
    weight_bytes: int
    kv_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """See `Figures`. `step_counts` are of its histogram; `runs` while a stage is on the device."""

    runs: bool
    depths: Depths
    memory: Memory
    busy_s: Mapping[str, float]
    passes: Mapping[str, int]
    rows: Mapping[str, int]
    sampled_tokens: int
    applied_steps: int
    skipped_steps: int
    step_counts: Sequence[int]
    steps_s: float
    dropped_frames: int
    faults: Mapping[str, int]
    links: Sequence[LinkReading]

    @classmethod
    def of(cls, figures: Figures, *, runs: bool, depths: Depths, memory: Memory) -> Self:
        """What they are now. Links that nothing passed are left out."""
        return cls(
            runs=runs,
            depths=depths,
            memory=memory,
            busy_s={str(kind): seconds for kind, seconds in figures.busy_s.items()},
            passes={str(kind): num for kind, num in figures.passes.items()},
            rows={str(kind): num for kind, num in figures.rows.items()},
            sampled_tokens=figures.sampled_tokens,
            applied_steps=figures.applied_steps,
            skipped_steps=figures.skipped_steps,
            step_counts=figures.step_s.counts,
            steps_s=figures.step_s.sum_s,
            dropped_frames=figures.dropped_frames,
            faults=dict(figures.faults),
            links=[
                LinkReading(
                    *key,
                    traffic.num_frames,
                    traffic.payload_bytes,
                    traffic.inline_s + traffic.aside_s,
                    traffic.stalled_s,
                )
                for key, traffic in figures.links.items()
                if traffic.num_frames
            ],
        )

    def to_line(self) -> str:
        """The line, without its end."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: bytes) -> Self | None:
        """A reading; None for any other line, which some library has printed."""
        try:
            read = json.loads(line)
            depths, memory = Depths(**read.pop("depths")), Memory(**read.pop("memory"))
            links = [LinkReading(*link) for link in read.pop("links")]
            return cls(depths=depths, memory=memory, links=links, **read)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
