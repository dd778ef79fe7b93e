"""Dynamic programming over device, place and free devices, from the last stage backwards.

begun[a, d, A]    least cost of layers [a, L) when device d begins a stage at a
ended[b, d, A]    the same of layers [b, L) once device d has ended its stage at b

A: the devices that are still free, d not among them

begun[a, d, A] = min over b > a     of  stage[d, a, b] + ended[b, d, A]
ended[b, d, A] = min over d' in A   of  hop[d, d'] + begun[b, d', A - d']
ended[L, d, A] = back[d, first]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepipe.core.bands import Bands
from edgepipe.core.graph import Graph
from edgepipe.core.problem import Bools, Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Steps:
    """The steps that each band allows: stages [D, L, L, K], hops [D, D, K], ways back [D, K].

    `ends` [A] are the sets of free devices with which a pipeline may end.
    """

    tracked: tuple[int, ...]
    untracked: tuple[int, ...]
    stages: Bools
    hops: Bools
    backs: Bools
    ends: Bools

    def tables(
        self, stage: Floats, hop: Floats, back: Floats, longest: Floats | None = None
    ) -> tuple[Floats, Floats]:
        """`begun` and `ended` of the module's docstring [D, L, K, A] for one kind of cost.

        `stage` is [D, L, L], or [D, L, L, K] where bands differ.
        Where a stage and all that follows cost more than `longest` [D, L, L, K], it may not be.
        """
        stages = np.where(self.stages, stage if stage.ndim == 4 else stage[..., None], np.inf)
        hops = np.where(self.hops, hop[..., None], np.inf)
        num_devices, num_places, _, num_bands = stages.shape
        ended = np.full((num_devices, num_places, num_bands, len(self.ends)), np.inf)
        ended[:, -1, :, self.ends] = np.where(self.backs, back[:, None], np.inf)
        begun = np.full_like(ended, np.inf)
        room = np.empty((num_places, num_bands, len(self.ends)))
        may: Bools = np.any(np.isfinite(stages), axis=-1)
        nearest, beyond = may.argmax(axis=2), num_places - may[..., ::-1].argmax(axis=2)
        begins: Bools = np.any(may, axis=2)
        arrives: Bools = np.any(may, axis=1)
        for place in range(num_places - 2, 0, -1):
            for device in np.flatnonzero(begins[:, place]):
                ends = slice(nearest[device, place], beyond[device, place])
                rest = room[ends]
                np.add(ended[device, ends], stages[device, place, ends, :, None], out=rest)
                if longest is not None:
                    rest[rest > longest[device, place, ends, :, None]] = np.inf
                rest.min(axis=0, out=begun[device, place])
            senders = np.flatnonzero(arrives[:, place])
            if len(senders):
                ended[senders, place] = self._hop(hops[senders], begun[:, place], begins[:, place])
        return begun, ended

    def _hop(self, hops: Floats, begun: Floats, begins: Bools) -> Floats:
        """What is left after stages [D', K, A] that hop to one that is begun on a device."""
        ended = np.full((len(hops), *begun.shape[1:]), np.inf)
        for device in self.untracked:
            if begins[device]:
                np.minimum(ended, begun[device] + hops[:, device, :, None], out=ended)
        sets, each = np.arange(len(self.ends)), np.empty_like(ended)
        for place, device in enumerate(self.tracked):
            if begins[device]:
                having = sets >> place & 1 == 1
                without = np.where(having, begun[device][:, sets ^ 1 << place], np.inf)
                np.minimum(ended, np.add(without, hops[:, device, :, None], out=each), out=ended)
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
    return Steps(
        tracked=tracked,
        untracked=tuple(sorted(inner - set(tracked))),
        stages=stages,
        hops=(graph.hop_peak_s[..., None] <= limits) & np.isfinite(hop)[..., None],
        backs=backs,
        ends=_ends(graph, tracked, len(inner)),
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


def _ends(graph: Graph, tracked: Sequence[int], num_inner: int) -> Bools:
    """Sets of free devices that a pipeline of the wanted number of stages may leave [A]."""
    free = np.array([places.bit_count() for places in range(1 << len(tracked))])
    if graph.num_stages is None:
        return np.ones(len(free), dtype=np.bool_)
    on_tracked = len(tracked) - free
    on_others = graph.num_stages - (graph.num_devices - num_inner) - on_tracked
    may: Bools = on_others >= 0 if num_inner > len(tracked) else on_others == 0
    return may
