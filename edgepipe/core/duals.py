"""Prices that keep a relaxed pipeline from taking more of a device, or a room, than there is.

A pipeline uses each device at most once, and claims no more of shared memory than there is. So
with any prices ≥ 0, of each use of a device and of the whole of a room,

    total ≥ min over relaxed pipelines of (total + Σ price · use) - Σ price

where a relaxed pipeline may use a device again and again. The minimum is a small dynamic program,
and subgradient steps better the prices (Polyak 1969): what the cheapest relaxed pipeline takes too
much of becomes dearer, the rest cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.graph import Graph
from edgepipe.core.problem import Bools, Floats, Ints
from edgepipe.core.round_trips import WHOLE, claims_of, exchange_s, longest_s
from edgepipe.core.steps import backs_s, only_first, steps_of

_LAST_STEP = 0.1
"""Of the way to its aim that the last step goes; the first one goes all of it."""
_MOMENTUM = 0.6
_CANCELLED = 1e-13
"""Sums may differ by so much, relative; where prices are high, the difference of two by more."""
_OVER = 1.02
"""So far above the best bound, or what it is good for, is aimed at least; relative."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prices:
    """Seconds for each use of a device [D, K], and for the whole of a room [C, K], in bands."""

    thresholds: Floats
    devices: Floats
    rooms: Floats

    @classmethod
    def none(cls, graph: Graph, bands: Bands) -> Prices:
        """Everything is free."""
        num = len(bands.thresholds)
        return cls(
            thresholds=bands.thresholds,
            devices=np.zeros((graph.num_devices, num)),
            rooms=np.zeros((len(graph.memory.rooms), num)),
        )

    def in_bands(self, bands: Bands) -> Prices:
        """Those of the bands that these lie in."""
        at = np.searchsorted(self.thresholds, bands.thresholds).clip(max=len(self.thresholds) - 1)
        return Prices(
            thresholds=bands.thresholds, devices=self.devices[:, at], rooms=self.rooms[:, at]
        )

    def moved(self, devices: Floats, rooms: Floats, wanted_s: Floats) -> Prices:
        """A step towards seconds [K] that are more by so much, along these excesses."""
        devices = np.where((devices < 0) & (self.devices <= 0), 0.0, devices)
        rooms = np.where((rooms < 0) & (self.rooms <= 0), 0.0, rooms)
        square = (devices**2).sum(axis=0) + (rooms**2).sum(axis=0)
        step = np.divide(wanted_s, square, out=np.zeros_like(square), where=square > 0)
        return Prices(
            thresholds=self.thresholds,
            devices=np.maximum(self.devices + step * devices, 0.0),
            rooms=np.maximum(self.rooms + step * rooms, 0.0),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dual:
    """Least seconds with prices, from where a device has ended a stage on: `total` [L, D, K].

    `whole` [K] bounds what any pipeline takes.
    """

    prices: Prices
    total: Floats
    whole: Floats

    def bounds(self, used: Ints, left: Floats, at: Ints, cells: tuple[Ints, Ints, Ints]) -> Floats:
        """Seconds to go at least [X] for pipelines that have used these devices [P], as bits.

        `left` [P, C] is what they leave of each room, as a share; `at` [X] says whose are the
        `cells`, which are in `total`.
        """
        unused = used[:, None] >> np.arange(len(self.prices.devices)) & 1 == 0
        paid = (unused @ self.prices.devices + left @ self.prices.rooms)[at, cells[2]]
        return _less(self.total[cells], paid)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Solved:
    """The tables at some prices, as in `steps` but [L, D, K]; `first` [D, K] of whole pipelines."""

    prices: Prices
    stages: Floats
    begun: Floats
    ended: Floats
    first: Floats

    @property
    def paid(self) -> Floats:
        paid: Floats = self.prices.devices.sum(axis=0) + self.prices.rooms.sum(axis=0)
        return paid

    @property
    def whole(self) -> Floats:
        return _less(self.first.min(axis=0), self.paid)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Relaxed:
    """Pipelines that may use a device again, in bands.

    `stages` [L, L, D, K] are seconds of layers [first, end), `claims` [C, L, L, D, K] what they
    claim of `rooms` [C]; `hops` [D, D, K], `backs` [D, K]; those of `firsts` [D] may begin.
    """

    stages: Floats
    claims: Floats
    rooms: Floats
    hops: Floats
    backs: Floats
    firsts: Bools

    def dual(self, prices: Prices, rounds: int, aims_s: Floats | None = None) -> Dual:
        """With the best of the prices that so many rounds come to.

        `aims_s` [K] are what a bound is good for; without them every bound is to rise.
        """
        solved = self._solved(prices)
        best, whole = prices, solved.whole
        devices, rooms = np.zeros_like(prices.devices), np.zeros_like(prices.rooms)
        for share in np.geomspace(1, _LAST_STEP, rounds):
            more_devices, more_rooms = self._excess(solved)
            devices = more_devices + _MOMENTUM * devices
            rooms = more_rooms + _MOMENTUM * rooms
            prices = solved.prices.moved(
                devices, rooms, _wanted_s(solved.whole, whole, aims_s) * share
            )
            solved = self._solved(prices)
            better = solved.whole > whole
            whole = np.where(better, solved.whole, whole)
            best = Prices(
                thresholds=prices.thresholds,
                devices=np.where(better, prices.devices, best.devices),
                rooms=np.where(better, prices.rooms, best.rooms),
            )
        return Dual(prices=best, total=self._solved(best).ended, whole=whole)

    def possible(self, prices: Prices, most_s: Floats) -> Bools:
        """The stages [D, L, L, K] of pipelines that take less than `most_s` [K], and others.

        What a pipeline takes at least that has a stage is bounded from either side of it.
        """
        solved = self._solved(prices)
        through = self._reached(solved)[:, None] + solved.stages + prices.devices + solved.ended
        may: Bools = through - solved.paid <= most_s * (1 + WHOLE)
        return may.transpose(2, 0, 1, 3)

    def _reached(self, solved: _Solved) -> Floats:
        """Least seconds of what precedes a stage that begins at a place [L, D, K]."""
        reached = np.full_like(solved.begun, np.inf)
        reached[0, self.firsts] = 0.0
        for place in range(1, len(reached) - 1):
            done = (reached[:place] + solved.stages[:place, place]).min(axis=0)
            done += solved.prices.devices
            np.min(done[:, None] + self.hops, axis=0, out=reached[place])
        return reached

    def ended(self) -> Floats:
        """Least seconds of what follows a stage, with nothing priced [L, D, K]."""
        return self._tables(self.stages, np.zeros_like(self.backs))[1]

    def _solved(self, prices: Prices) -> _Solved:
        stages = self.stages
        for claims, price, room in zip(self.claims, prices.rooms, self.rooms, strict=True):
            if price.any():
                stages = stages + claims * (price / room)
        begun, ended = self._tables(stages, prices.devices)
        first = np.where(self.firsts[:, None], begun[0], np.inf)
        return _Solved(prices=prices, stages=stages, begun=begun, ended=ended, first=first)

    def _tables(self, stages: Floats, devices: Floats) -> tuple[Floats, Floats]:
        begun = np.full((len(stages), *self.backs.shape), np.inf)
        ended = begun.copy()
        ended[-1] = self.backs
        for place in range(len(stages) - 2, -1, -1):
            rest = stages[place, place + 1 :] + ended[place + 1 :]
            begun[place] = rest.min(axis=0) + devices
            np.min(self.hops + begun[place], axis=1, out=ended[place])
        return begun, ended

    def _excess(self, solved: _Solved) -> tuple[Floats, Floats]:
        """What each band's cheapest pipeline takes of devices and rooms beyond what there is."""
        devices = np.full_like(solved.prices.devices, -1.0)
        rooms = np.full_like(solved.prices.rooms, -1.0)
        bands = np.flatnonzero(np.isfinite(solved.whole))
        device, place = solved.first[:, bands].argmin(axis=0), np.zeros_like(bands)
        while len(bands):
            ways = solved.stages[place, :, device, bands] + solved.ended[:, device, bands].T
            end = ways.argmin(axis=1)
            devices[device, bands] += 1
            rooms[:, bands] += self.claims[:, place, end, device, bands] / self.rooms[:, None]
            on = end < len(solved.stages) - 1
            bands, device, place = bands[on], device[on], end[on]
            nexts = self.hops[device, :, bands] + solved.begun[place, :, bands]
            device = nexts.argmin(axis=1)
        return devices, rooms


def _wanted_s(now: Floats, best: Floats, aims_s: Floats | None) -> Floats:
    """How much more a step aims at [K]; nothing where no pipeline is possible."""
    possible = np.where(np.isfinite(best), best, 0.0)
    aims = 2 * possible if aims_s is None else np.maximum(aims_s, possible) * _OVER
    wanted: Floats = np.where(
        np.isfinite(best), np.maximum(aims - np.where(np.isfinite(now), now, 0.0), 0.0), 0.0
    )
    return wanted


def _less(seconds: Floats, paid: Floats) -> Floats:
    """The difference, at least."""
    less: Floats = seconds * (1 - _CANCELLED) - paid * (1 + _CANCELLED)
    return less


def shares(graph: Graph, claims: Floats) -> Floats:
    """What so much is of each room [..., C]."""
    return claims / _sizes(graph)


def _sizes(graph: Graph) -> Floats:
    """Rooms [C]; one of nothing holds no stage, whatever it is divided by."""
    return np.maximum(graph.memory.rooms, 1.0)


def relaxed_of(graph: Graph, firsts: Sequence[int], bands: Bands) -> Relaxed:
    """Pipelines that begin on one of `firsts`, each with the shortest of their ways back."""
    steps, only = steps_of(graph, firsts, bands, ()), list(only_first(graph, firsts))
    hops = np.where(steps.hops, graph.hop_s[..., None], np.inf)
    hops[:, only] = np.inf
    stages = np.where(steps.stages, graph.stage_s[..., None], np.inf).transpose(1, 2, 0, 3)
    free = Relaxed(
        stages=np.ascontiguousarray(stages),
        claims=np.zeros((0, *stages.shape)),
        rooms=np.zeros(0),
        hops=hops,
        backs=np.where(steps.backs, backs_s(graph, firsts)[:, None], np.inf),
        firsts=np.isin(np.arange(graph.num_devices), firsts),
    )
    if graph.depth is None and not len(graph.memory.rooms):
        return free
    return _in_memory(graph, firsts, bands, free)


def _in_memory(graph: Graph, firsts: Sequence[int], bands: Bands, free: Relaxed) -> Relaxed:
    """The same with what rooms and microbatches in flight allow."""
    ended = free.ended().transpose(1, 0, 2)
    stages, longest = free.stages, longest_s(graph, bands, firsts)
    if longest is not None:
        trips = graph.stage_s[..., None] + ended[:, None]
        stages = np.where((trips > longest).transpose(1, 2, 0, 3), np.inf, stages)
    claims = claims_of(graph, bands, (ended - exchange_s(graph, firsts))[..., None])
    return replace(
        free,
        stages=stages,
        claims=claims.transpose(0, 2, 3, 1, 4),
        rooms=_sizes(graph),
    )
