"""A problem as the arrays that the search walks on: what cannot be is infinite.

enter ──▶ device a, layers [0, x) ──hop──▶ device b, layers [x, y) ──hop──▶ … [z, L) ──back──▶ a
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from edgepipe.core.goal import Goal
from edgepipe.core.problem import Bools, Floats, Ints, Problem, stage_seconds
from edgepipe.core.resources import Resources, resources_of
from edgepipe.core.rooms import SharedRooms, depth_of, fitting, shared_rooms
from edgepipe.core.twins import twins_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Graph:
    """Seconds, loads and bytes of every step that a placement may take.

    `stage_s` [D, L, L], `hop_s` and `back_s` [D, D] (back: last to first), `enter_s` [D].
    `hop_peak_s` and `back_peak_s` [D, D] are the largest load of one boundary on any resource;
    `hop_loads` and `back_loads` [D, D, S] are on those that several boundaries share.
    `memory` is what devices share. `middle_peak_s` [D] is the least that a device's boundaries,
    both together, load any resource; `spread` [S] are the shared resources that more than one
    device loads.
    `update_s` [D, L, L] are the optimizer's seconds; `depth` [D, L, L] is how many microbatches may
    be in flight while all other devices are idle, None without training. `num_stages` is None
    where any number will do. `twin` [D] is a device that must be used before this one, because the
    two are alike, or -1.
    """

    goal: Goal
    stage_s: Floats
    enter_s: Floats
    hop_s: Floats
    back_s: Floats
    hop_peak_s: Floats
    back_peak_s: Floats
    hop_loads: Floats
    back_loads: Floats
    memory: SharedRooms
    middle_peak_s: Floats
    spread: Bools
    depth: Floats | None
    update_s: Floats
    num_stages: int | None
    goes_back: bool
    twin: Ints

    @property
    def num_devices(self) -> int:
        """Devices, used or not."""
        return len(self.stage_s)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(self.stage_s[0]) - 1


def graph_of(problem: Problem) -> Graph:
    """The arrays of a problem."""
    enter, hop, back = _allowed(problem)
    resources = resources_of(problem)
    shared = resources.shared()
    stage_s = np.where(fitting(problem), stage_seconds(problem), np.inf)
    hop_peak, back_peak = (
        loads.max(axis=2, initial=0.0) for loads in (resources.hop, resources.back)
    )
    depth, update = depth_of(problem), _update_s(problem)
    own = [stage_s, enter, update, *([] if depth is None else [depth])]
    return Graph(
        goal=problem.goal,
        stage_s=stage_s,
        enter_s=enter,
        hop_s=hop,
        back_s=back,
        hop_peak_s=hop_peak,
        back_peak_s=back_peak,
        hop_loads=resources.hop[:, :, shared],
        back_loads=resources.back[:, :, shared],
        memory=shared_rooms(problem),
        middle_peak_s=_middle_peak_s(resources.hop),
        spread=_spread(resources)[shared],
        depth=depth,
        update_s=update,
        num_stages=len(problem.order) if problem.order is not None else problem.num_stages,
        goes_back=problem.traffic.goes_back,
        twin=twins_of(problem, own, (hop, back, hop_peak, back_peak)),
    )


def _allowed(problem: Problem) -> tuple[Floats, Floats, Floats]:
    """Entering, hopping and going back, infinite where the order forbids it."""
    num = len(problem.devices)
    enter, hop, back = np.zeros(num), problem.hop_s(), problem.return_s()
    np.fill_diagonal(hop, np.inf)
    if problem.order is not None:
        first, last = problem.order[0], problem.order[-1]
        enter[np.arange(num) != first] = np.inf
        back[np.arange(num) != last, :] = np.inf
        forbidden = np.ones((num, num), dtype=bool)
        for before, after in pairwise(problem.order):
            forbidden[before, after] = False
        hop[forbidden] = np.inf
    return enter, hop, back


def _middle_peak_s(hop: Floats) -> Floats:
    """The least that coming to a device and going on from it load the busier resource [D]."""
    if len(hop) == 1:
        return np.zeros(1)
    apart = np.where(np.eye(len(hop), dtype=np.bool_)[..., None], np.inf, hop)
    least: Floats = (apart.min(axis=0) + apart.min(axis=1)).max(axis=1, initial=0.0)
    return least


def _spread(resources: Resources) -> Bools:
    """Resources [R] that boundaries load which have no device in common."""
    loads = (resources.hop + resources.back) > 0
    touched = np.array(
        [loads[index].sum(axis=0) + loads[:, index].sum(axis=0) for index in range(len(loads))]
    )
    spread: Bools = (touched < loads.sum(axis=(0, 1))).all(axis=0)
    return spread


def _update_s(problem: Problem) -> Floats:
    """Seconds of the optimizer of every stage [D, L, L]."""
    shape = (len(problem.devices), *problem.stage_bytes.shape)
    if problem.training is None:
        return np.zeros(shape)
    return stage_seconds(replace(problem, item_s=problem.training.update_s))
