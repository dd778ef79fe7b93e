"""What a placement is to be good at: one figure in seconds, made of a sum and a bottleneck.

total       Σ stage times + Σ hop times, the hop back included where there is one
bottleneck  the busiest stage, or the busiest direction of a NIC, in seconds per frame; for
            training the period of a microbatch, which memory may lengthen

Every figure rises with both, which is all that the search needs to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_TIE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Seconds per token of a single stream: the time of one turn of the ring."""

    @property
    def weighs_bottleneck(self) -> bool:
        """The figure depends on the bottleneck."""
        return False

    def seconds(self, total_s: Any, bottleneck_s: Any) -> Any:  # noqa: ARG002
        """`total`; numbers, or arrays that broadcast to the shape of `total_s`."""
        return total_s

    rank = seconds

    def total_s(self, seconds: float, bottleneck_s: Any) -> Any:
        """The total that comes to these seconds with the bottleneck; an array of its shape."""
        return np.full_like(bottleneck_s, seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Seconds per group in steady state, with `num_groups` groups of `group_size` sequences.

    A stage that never idles takes a group every `bottleneck`, and a group is home after `total`.
    """

    num_groups: int
    group_size: int

    @property
    def weighs_bottleneck(self) -> bool:
        """The figure depends on the bottleneck."""
        return True

    def seconds(self, total_s: Any, bottleneck_s: Any) -> Any:
        """`max(bottleneck, total / G)`; numbers, or arrays that broadcast."""
        return np.maximum(bottleneck_s, total_s / self.num_groups)

    def rank(self, total_s: Any, bottleneck_s: Any) -> Any:
        """`seconds`, and of equal ones the shorter ring, then the stages that are more alike.

        A billionth part of ring and bottleneck is added: where the ring is what is waited for,
        every cut within it is as good, until a frame comes late.
        """
        return self.seconds(total_s, bottleneck_s) + _TIE * (total_s + bottleneck_s)

    def total_s(self, seconds: float, bottleneck_s: Any) -> Any:
        """The total that comes to these seconds with the bottleneck; none where that is worse."""
        return np.where(bottleneck_s < seconds, seconds * self.num_groups, 0.0)

    def tokens_per_s(self, seconds: float) -> float:
        """Of all groups together: `g · min(1 / bottleneck, G / total)`."""
        return self.group_size / seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefill:
    """Seconds until a prompt of `num_chunks` chunks has left the last stage."""

    num_chunks: int

    @property
    def weighs_bottleneck(self) -> bool:
        """The figure depends on the bottleneck."""
        return self.num_chunks > 1

    def seconds(self, total_s: Any, bottleneck_s: Any) -> Any:
        """`total + (C - 1) · bottleneck`; numbers, or arrays that broadcast."""
        return total_s + (self.num_chunks - 1) * bottleneck_s

    rank = seconds

    def total_s(self, seconds: float, bottleneck_s: Any) -> Any:
        """The total that comes to these seconds with the bottleneck."""
        return seconds - self.seconds(0.0, bottleneck_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """Seconds of a training step of `num_microbatches`, before the slowest optimizer's own.

    `fixed_s` is what every step takes besides: two round trips to the coordinator.
    """

    num_microbatches: int
    fixed_s: float = 0.0

    @property
    def weighs_bottleneck(self) -> bool:
        """The figure depends on the bottleneck."""
        return self.num_microbatches > 1

    def seconds(self, total_s: Any, bottleneck_s: Any) -> Any:
        """`total + (M - 1) · period + fixed`; numbers, or arrays that broadcast."""
        return total_s + (self.num_microbatches - 1) * bottleneck_s + self.fixed_s

    rank = seconds

    def total_s(self, seconds: float, bottleneck_s: Any) -> Any:
        """The total that comes to these seconds with the bottleneck."""
        return seconds - self.seconds(0.0, bottleneck_s)


Goal = Latency | Throughput | Prefill | Train
