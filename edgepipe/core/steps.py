"""Dynamic programming over device, place and free devices, from the last stage backwards.

begun[a, d, A]    least cost of layers [a, L) when device d begins a stage at a
ended[b, d, A]    the same of layers [b, L) once device d has ended its stage at b

A: the devices that are still free, d not among them

begun[a, d, A] = min over b > a     of  stage[d, a, b] + ended[b, d, A]
ended[b, d, A] = min over d' in A   of  hop[d, d'] + begun[b, d', A - d']
ended[L, d, A] = back[d, first]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.graph import Graph
from edgepipe.core.problem import Bools, Floats
from edgepipe.core.sets import Sets

_CELLS_AT_ONCE = 4_000_000
"""Of the costs of stages: fewer calls where tables are small, little memory where they are not."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """The steps that each band allows: stages [D, L, L, K], hops [D, D, K], ways back [D, K].

    `any_stages` [D, L, L] are those of any band. `ends` [A] are the sets of free devices with which
    a pipeline may end; `sets` has the order of this axis.
    """

    sets: Sets
    untracked: tuple[int, ...]
    stages: Bools
    any_stages: Bools
    hops: Bools
    backs: Bools
    ends: Bools

    def tables(
        self, stage: Floats, hop: Floats, back: Floats, longest: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """`begun` and `ended` of the module's docstring [D, L, K, A] for one kind of cost.

        `stage` is [D, L, L], or [D, L, L, K] where bands differ.
        Where a stage and all that follows cost more than `longest` [D, L, L, K], it may not be.
        What no pipeline comes to is infinite, as is what none can go on from.
        """
        costs = stage if stage.ndim == 4 else stage[..., None]
        begun, ended = self._tables(costs[..., None, :], hop, back, longest, keeping=True)
        return begun[0], ended[0]

    def several(self, stages: Iterable[Floats], hop: Floats, back: Floats) -> tuple[Floats, ...]:
        """`ended` for each of several kinds of cost that differ in their stages [D, L, L, K]."""
        kinds, ended = list(stages), list[Floats]()
        num = max(1, _CELLS_AT_ONCE // self.stages.size)
        for costs in (kinds[at : at + num] for at in range(0, len(kinds), num)):
            ended.extend(self._tables(np.stack(costs, axis=3), hop, back, None, keeping=False)[1])
        return tuple(ended)

    def _tables(
        self, costs: Floats, hop: Floats, back: Floats, longest: Floats | None, *, keeping: bool
    ) -> tuple[Floats, Floats]:
        """`begun` and `ended` [T, D, L, K, A] for T kinds of cost [D, L, L, T, K].

        `begun` has a single place, and is of no use, without `keeping` it.
        """
        stages = np.where(self.stages[..., None, :], costs, np.inf)
        hops = np.where(self.hops, hop[..., None], np.inf)
        num_devices, num_places, _, num_kinds, num_bands = stages.shape
        shape = (num_kinds, num_devices, num_places, num_bands, len(self.ends))
        ended = np.full(shape, np.inf)
        backs = np.where(self.backs, back[:, None], np.inf)
        ended[:, :, -1] = np.where(self.ends, backs[..., None], np.inf)
        begun = np.full((*shape[:2], num_places if keeping else 1, *shape[3:]), np.inf)
        room = np.empty(num_places * num_kinds * num_bands * len(self.ends))
        may: Bools = np.any(np.isfinite(stages), axis=(3, 4))
        nearest, beyond = may.argmax(axis=2), num_places - may[..., ::-1].argmax(axis=2)
        begins: Bools = np.any(may, axis=2)
        arrives: Bools = np.any(may, axis=1)
        for place in range(num_places - 2, 0, -1):
            here = begun[:, :, place if keeping else 0]
            for device in np.flatnonzero(begins[:, place]):
                ends = slice(nearest[device, place], beyond[device, place])
                sets = self.sets.begun[place][device]
                after = ended[:, device, ends, :, sets].swapaxes(0, 1)
                rest = room[: after.size].reshape(after.shape)
                np.add(after, stages[device, place, ends, ..., None], out=rest)
                if longest is not None:
                    most = longest[device, place, ends, None, :, None]
                    np.copyto(rest, np.inf, where=rest > most)
                rest.min(axis=0, out=here[:, device, :, sets])
            senders, sets = np.flatnonzero(arrives[:, place]), self.sets.ended[place]
            if len(senders):
                ended[:, senders, place, :, sets] = self._hop(
                    hops[senders], here, begins[:, place], sets
                )
        return begun, ended

    def _hop(self, hops: Floats, begun: Floats, begins: Bools, sets: slice) -> Floats:
        """What is left after stages [T, D', K, A] that hop to one that is begun on a device."""
        shape = (len(begun), len(hops), begun.shape[2], sets.stop - sets.start)
        ended, each = np.full(shape, np.inf), np.empty(shape)
        for device in self.untracked:
            if begins[device]:
                rest = begun[:, device, None, :, sets]
                np.minimum(ended, np.add(rest, hops[:, device, :, None], out=each), out=ended)
        for place, device in enumerate(self.sets.tracked):
            if begins[device]:
                having, swapped = self.sets.having[place, sets], self.sets.without[place, sets]
                rest = np.where(having, begun[:, device][..., swapped], np.inf)[:, None]
                np.minimum(ended, np.add(rest, hops[:, device, :, None], out=each), out=ended)
        return ended


def steps_of(
    graph: Graph,
    firsts: Sequence[int],
    bands: Bands,
    tracked: tuple[int, ...],
    possible: Bools | None = None,
) -> Steps:
    """The steps of pipelines that begin on one of `firsts`; of stages [D, L, L, K] `possible`."""
    limits = bands.limits
    inner = set(range(graph.num_devices)) - set(only_first(graph, firsts))
    stage, hop, back = graph.stage_s, graph.hop_s, graph.back_s[:, firsts]
    backs: Bools = np.any(
        (graph.back_peak_s[:, firsts, None] <= limits) & np.isfinite(back)[..., None], axis=1
    )
    stages = (stage[..., None] <= limits) & np.isfinite(stage)[..., None]
    if possible is not None:
        stages &= possible
    # A stage that neither begins nor ends the model has a boundary on either side.
    stages[:, 1:, :-1] &= graph.middle_peak_s[:, None, None, None] <= limits
    untracked = tuple(sorted(inner - set(tracked)))
    any_stages: Bools = np.any(stages, axis=3)
    sets = Sets.of(any_stages, tracked, untracked)
    return Steps(
        sets=sets,
        untracked=untracked,
        stages=stages,
        any_stages=any_stages,
        hops=(graph.hop_peak_s[..., None] <= limits) & np.isfinite(hop)[..., None],
        backs=backs,
        ends=_ends(graph, sets, len(inner)),
    )


def only_first(graph: Graph, firsts: Sequence[int]) -> Sequence[int]:
    """The device that can only be the first one; none where it may be one of several."""
    return firsts if graph.goes_back and len(firsts) == 1 else ()


def backs_s(graph: Graph, firsts: Sequence[int]) -> Floats:
    """Seconds of the shortest way back from another device to one of `firsts` [D]."""
    backs = graph.back_s[:, firsts]
    if len(firsts) > 1:
        backs[firsts, np.arange(len(firsts))] = np.inf
    shortest: Floats = backs.min(axis=1)
    return shortest


def _ends(graph: Graph, sets: Sets, num_inner: int) -> Bools:
    """Sets of free devices that a pipeline of the wanted number of stages may leave [A]."""
    free, num_tracked = sets.having.sum(axis=0), len(sets.tracked)
    if graph.num_stages is None:
        return np.ones(len(free), dtype=np.bool_)
    on_tracked = num_tracked - free
    on_others = graph.num_stages - (graph.num_devices - num_inner) - on_tracked
    may: Bools = on_others >= 0 if num_inner > num_tracked else on_others == 0
    return may
