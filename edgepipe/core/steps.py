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
        for place in range(num_places - 2, 0, -1):
            for device in range(num_devices):
                rest = room[place + 1 :]
                np.add(
                    ended[device, place + 1 :],
                    stages[device, place, place + 1 :, :, None],
                    out=rest,
                )
                if longest is not None:
                    rest[rest > longest[device, place, place + 1 :, :, None]] = np.inf
                rest.min(axis=0, out=begun[device, place])
            self._hop(hops, begun[:, place], ended[:, place])
        return begun, ended

    def _hop(self, hops: Floats, begun: Floats, ended: Floats) -> None:
        """Lower `ended` [D, K, A] to what hopping to a stage that was begun costs."""
        for device in self.untracked:
            np.minimum(ended, begun[device] + hops[:, device, :, None], out=ended)
        for place, device in enumerate(self.tracked):
            halves = (len(self.ends) >> place + 1, 2, 1 << place)  # sets without and with it
            without = begun[device].reshape(-1, *halves)[:, :, 0]
            having = ended.reshape(*ended.shape[:2], *halves)[..., 1, :]
            np.minimum(having, without + hops[:, device, :, None, None], out=having)


def steps_of(graph: Graph, firsts: Sequence[int], bands: Bands, tracked: tuple[int, ...]) -> Steps:
    """The steps of pipelines that begin on one of `firsts`."""
    limits, first = bands.thresholds, firsts[0]
    inner = set(range(graph.num_devices)) - (set(firsts) if graph.goes_back else set())
    stage, hop, back = graph.stage_s, graph.hop_s, graph.back_s[:, first]
    stages = (stage[..., None] <= limits) & np.isfinite(stage)[..., None]
    # A stage that neither begins nor ends the model has a boundary on either side.
    stages[:, 1:, :-1] &= graph.middle_peak_s[:, None, None, None] <= limits
    return Steps(
        tracked=tracked,
        untracked=tuple(sorted(inner - set(tracked))),
        stages=stages,
        hops=(graph.hop_peak_s[..., None] <= limits) & np.isfinite(hop)[..., None],
        backs=(graph.back_peak_s[:, first, None] <= limits) & np.isfinite(back)[..., None],
        ends=_ends(graph, tracked, len(inner)),
    )


def _ends(graph: Graph, tracked: Sequence[int], num_inner: int) -> Bools:
    """Sets of free devices that a pipeline of the wanted number of stages may leave [A]."""
    free = np.array([places.bit_count() for places in range(1 << len(tracked))])
    if graph.num_stages is None:
        return np.ones(len(free), dtype=np.bool_)
    on_tracked = len(tracked) - free
    on_others = graph.num_stages - (graph.num_devices - num_inner) - on_tracked
    may: Bools = on_others >= 0 if num_inner > len(tracked) else on_others == 0
    return may
