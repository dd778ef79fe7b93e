"""A placement problem: a model's items, the devices, what lies between them, and the goal.

items     embedding | layer 0 | … | layer L-1 | head          L + 2 items
stage     layers [first, end), 0 <= first < end <= L: with the embedding where first = 0, with the
          head where end = L. A stage holds at least one layer.
placement stages that follow one another from layer 0 to layer L, each on a device of its own

Axes of arrays are named D for devices, L for the L + 1 places where a stage may begin or end, I
for the L + 2 items, R for resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from edgepipe.core.goal import Goal, Train

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that may hold one stage.

    Devices of one `node` and `pool` share memory; those of one `host` share its NIC and reach
    each other without it.
    """

    node: str
    device: str
    host: str
    pool: str
    memory_limit_bytes: int
    baseline_bytes: int

    @property
    def name(self) -> str:
        """The device's name, with its node's."""
        return f"{self.node}/{self.device}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """What a host's network interface carries, each way.

    A `medium`, such as a Wi-Fi channel, is one resource for all its stations, both directions.
    """

    send_bytes_per_s: float
    receive_bytes_per_s: float
    medium: str | None = None

    def sends_through(self, host: str) -> str:
        """The name of the resource that frames from the host load."""
        return f"from {host}" if self.medium is None else f"medium {self.medium}"

    def receives_through(self, host: str) -> str:
        """The name of the resource that frames to the host load."""
        return f"to {host}" if self.medium is None else f"medium {self.medium}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes of one frame over a boundary, and of what goes home from the last stage to the first.

    `return_bytes` is None where nothing goes home; 0 still costs the link's latency.
    `gradient_bytes` come back over each boundary for every frame, in training; `exchange_bytes`
    go both ways between the last stage and the first once a step, where the embedding is tied.
    """

    frame_bytes: int
    return_bytes: int | None = None
    gradient_bytes: int | None = None
    exchange_bytes: int | None = None

    @property
    def goes_back(self) -> bool:
        """The last stage and the first have something to tell each other."""
        return self.return_bytes is not None or self.exchange_bytes is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Training:
    """What training needs to know besides.

    `inflight_bytes` [L, L] are what a stage of layers [first, end) keeps of each microbatch in
    flight, at least one; `update_s` [D, I] are seconds of the optimizer, once a step.
    """

    inflight_bytes: Ints
    update_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """What a placement is chosen for.

    `item_s` [D, I] are seconds per frame: of one token of a stream, of a group, or of a chunk, as
    the goal wants. `stage_bytes` [L, L] is what a stage of layers [first, end) takes beside the
    baseline. `link_bytes_per_s` and `link_latency_s` [D, D] are from the row's device to the
    column's, loopback where they share a host; `return_latency_s` [D, D] is that of what goes home,
    which no codec touches, `link_latency_s` where None. `frame_share` and `gradient_share` [D, D]
    are what a codec leaves of a frame's bytes on that way, all where None. A host that `nics` does
    not name is never a bottleneck. `num_stages` asks for so many stages, `order` for all these
    devices (indices) in this order. For training, `item_s` are forward and backward of a
    microbatch, with what is computed again, and `training` is set.
    """

    devices: tuple[Device, ...]
    item_s: Floats
    stage_bytes: Ints
    link_bytes_per_s: Floats
    link_latency_s: Floats
    traffic: Traffic
    goal: Goal
    frame_share: Floats | None = None
    gradient_share: Floats | None = None
    return_latency_s: Floats | None = None
    nics: Mapping[str, Nic] = field(default_factory=dict)
    training: Training | None = None
    num_stages: int | None = None
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Arrays have their shapes, and no cost is negative or unknown."""
        num, places = len(self.devices), self.num_layers + 1
        assert num
        assert places > 1
        assert self.item_s.shape == (num, places + 1)
        assert self.stage_bytes.shape == (places, places)
        for link in (self.link_bytes_per_s, self.link_latency_s, self.frame_bytes):
            assert link.shape == (num, num)
        for costs in (self.item_s, self.link_latency_s):
            assert np.isfinite(costs).all()
            assert (costs >= 0).all()
        assert (self.link_bytes_per_s > 0).all()
        assert (self.training is not None) == isinstance(self.goal, Train)
        if self.training is not None:
            assert self.training.inflight_bytes.shape == (places, places)
            assert self.training.update_s.shape == (num, places + 1)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.stage_bytes) - 1

    @property
    def frame_bytes(self) -> Floats:
        """Bytes of a frame from the row's device to the column's, encoded [D, D]."""
        return self._encoded(self.traffic.frame_bytes, self.frame_share)

    @property
    def gradient_bytes(self) -> Floats:
        """Bytes of a gradient from the row's device to the column's, encoded [D, D]; or 0."""
        return self._encoded(self.traffic.gradient_bytes or 0, self.gradient_share)

    def _encoded(self, size: int, share: Floats | None) -> Floats:
        return size * (np.ones_like(self.link_latency_s) if share is None else share)

    def hop_s(self) -> Floats:
        """Seconds of a frame from the row's device to the column's, and its gradient's [D, D]."""
        seconds = self._link_s(self.frame_bytes)
        if self.traffic.gradient_bytes is None:
            return seconds
        return seconds + self._link_s(self.gradient_bytes).T

    def return_s(self) -> Floats:
        """Seconds between the last stage's device (row) and the first's [D, D]; 0 to itself."""
        seconds = np.zeros_like(self.link_latency_s)
        if self.traffic.return_bytes is not None:
            seconds += self._home_s(self.traffic.return_bytes)
        if self.traffic.exchange_bytes is not None:
            exchange = self._home_s(self.traffic.exchange_bytes)
            seconds += exchange + exchange.T
        np.fill_diagonal(seconds, 0.0)
        return seconds

    @property
    def home_latency_s(self) -> Floats:
        """A link's latency for what goes home [D, D]."""
        return self.link_latency_s if self.return_latency_s is None else self.return_latency_s

    def _home_s(self, num_bytes: int) -> Floats:
        """Seconds of so many bytes that go home, or are exchanged, over each link [D, D]."""
        return self.home_latency_s + num_bytes / self.link_bytes_per_s

    def _link_s(self, num_bytes: Floats) -> Floats:
        """Seconds of so many encoded bytes over each link [D, D]."""
        return self.link_latency_s + num_bytes / self.link_bytes_per_s


def item_range(num_layers: int, first: int, end: int) -> tuple[int, int]:
    """The items [first, end) of a stage of these layers."""
    return (first + 1 if first else 0), (end + 1 if end < num_layers else num_layers + 2)


def stage_s(problem: Problem, stage: Stage) -> float:
    """Seconds of one stage on its device."""
    begin, end = item_range(problem.num_layers, stage.first, stage.end)
    return float(problem.item_s[stage.device, begin:end].sum())


def stage_seconds(problem: Problem) -> Floats:
    """Seconds of every device for a stage of layers [first, end) [D, L, L]; 0 where empty."""
    num = problem.num_layers
    sums = np.pad(np.cumsum(problem.item_s, axis=1), ((0, 0), (1, 0)))
    ranges = [item_range(num, place, place) for place in range(num + 1)]
    begins = sums[:, [begin for begin, _ in ranges]]
    ends = sums[:, [end for _, end in ranges]]
    seconds = ends[:, None, :] - begins[:, :, None]
    return seconds * np.triu(np.ones((num + 1, num + 1)), k=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Layers [first, end) on the device of this index."""

    device: int
    first: int
    end: int


Placement = tuple[Stage, ...]


def check_placement(problem: Problem, placement: Sequence[Stage]) -> None:
    """Asserts that the stages follow one another over all layers, on devices of their own."""
    assert placement
    assert placement[0].first == 0
    assert placement[-1].end == problem.num_layers
    assert all(stage.first < stage.end for stage in placement)
    assert all(before.end == after.first for before, after in pairwise(placement))
    assert len({stage.device for stage in placement}) == len(placement)
