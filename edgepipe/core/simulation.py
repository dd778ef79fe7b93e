"""What a simulation found: a timeline, its figure, how busy the stages are, and the bottleneck."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic

from edgepipe.core.costs import Bottleneck, BottleneckKind
from edgepipe.core.hop import Hop, Place
from edgepipe.core.timeline import ActionT, Timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation(Generic[ActionT]):
    """What was simulated.

    `seconds` is the figure asked for: of a step, of a prompt, or of a group in steady state.
    `busy_share` is each stage's, of that time, and the rest is its `bubble`. `bottleneck` is the
    busiest stage, link, NIC direction or medium.
    """

    timeline: Timeline[ActionT]
    seconds: float
    busy_share: tuple[float, ...]
    bottleneck: Bottleneck

    @property
    def bubble(self) -> tuple[float, ...]:
        """The share of the time in which each stage idles."""
        return tuple(1 - share for share in self.busy_share)


def simulation(
    run: Timeline[ActionT],
    *,
    seconds: float,
    num_frames: int,
    stage_s: Sequence[float],
    busiest: Bottleneck,
) -> Simulation[ActionT]:
    """What a timeline shows.

    Args:
        run: what was simulated.
        seconds: the figure asked for.
        num_frames: the frames, or microbatches, done in that time.
        stage_s: each stage's seconds per frame.
        busiest: the bottleneck.
    """
    return Simulation(
        timeline=run,
        seconds=seconds,
        busy_share=tuple(num_frames * busy / seconds if seconds else 0.0 for busy in stage_s),
        bottleneck=busiest,
    )


def bottleneck(
    places: Sequence[Place], stage_s: Sequence[float], hops: Sequence[Hop]
) -> Bottleneck:
    """What is busiest: `stage_s` are seconds per frame at each place, `hops` all that it takes."""
    slowest = max(range(len(stage_s)), key=lambda stage: stage_s[stage])
    occupied = defaultdict[str, float](float)
    for each in hops:
        for name, seconds in each.occupied.items():
            occupied[name] += seconds
    busiest = max(occupied, key=occupied.__getitem__, default=None)
    if busiest is None or occupied[busiest] <= stage_s[slowest]:
        return Bottleneck(
            kind=BottleneckKind.COMPUTE, where=places[slowest].name, seconds=stage_s[slowest]
        )
    return Bottleneck(kind=BottleneckKind.LINK, where=busiest, seconds=occupied[busiest])
