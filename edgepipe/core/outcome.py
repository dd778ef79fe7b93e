"""A placement in one setting, simulated: what a plan is chosen by."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from edgepipe.core.compression import Table, compression_of, less_lossy
from edgepipe.core.costs import Cost, cost
from edgepipe.core.depths import Depths, best_depths, steady_depths
from edgepipe.core.frame import Codec
from edgepipe.core.hop import Frame, Place
from edgepipe.core.posing import Asked, Case, posed, train_seconds
from edgepipe.core.problem import Placement, item_range
from edgepipe.core.ring import Visit
from edgepipe.core.schedule import Action, Schedule
from edgepipe.core.schedule_choice import Wish
from edgepipe.core.simulate import Boundary, TrainStage, infer, train
from edgepipe.core.simulation import Simulation
from edgepipe.core.work import Objective

_WORSE = 1.005
"""A less lossy codec may make the figure so many times worse."""

Simulated = Simulation[Action] | Simulation[Visit]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """What a placement comes to; `seconds` compares between settings of one objective.

    `depths` are in training the microbatches that each stage holds.
    """

    case: Case
    placement: Placement
    cost: Cost
    simulation: Simulated
    seconds: float
    depths: Depths = ()

    @property
    def bubble(self) -> float:
        """The share of the stages' time that is idle, on average."""
        shares = self.simulation.bubble
        return sum(shares) / len(shares)


def play(asked: Asked, case: Case, placement: Placement) -> Outcome:
    """Simulate a placement."""
    if case.setting.objective is Objective.TRAIN:
        return play_by(asked, case, placement, Wish())[0]
    found = cost(case.problem, placement)
    simulation = infer(case.problem, placement)
    return Outcome(
        case=case,
        placement=placement,
        cost=found,
        simulation=simulation,
        seconds=simulation.seconds * case.setting.weight(asked.work),
    )


def play_by(
    asked: Asked, case: Case, placement: Placement, wish: Wish, depths: Depths | None = None
) -> tuple[Outcome, Schedule]:
    """Simulate a training step by a schedule of the user's choice; that schedule.

    For 1f1b-k with these depths, or with those that hide the hops.
    """
    found = cost(case.problem, placement)
    num_microbatches = case.setting.num_microbatches
    if depths is None:
        period_s = found.bottleneck.seconds
        depths = steady_depths(found.inflight, found.hop_s, period_s, num_microbatches)
    schedule = wish.schedule(len(placement), num_microbatches, depths)
    simulation = _train(asked, case, placement, schedule)
    outcome = Outcome(
        case=case,
        placement=placement,
        cost=found,
        simulation=simulation,
        seconds=simulation.seconds + found.return_s + found.update_s + _fixed_s(case),
        depths=tuple(schedule.inflight(stage) for stage in range(schedule.num_stages)),
    )
    return outcome, schedule


def refine(asked: Asked, best: Outcome) -> Outcome:
    """The same with less lossy codecs wherever they cost next to nothing, and the best depths."""
    best = _less_lossy(asked, best)
    return deepened(asked, best) if best.depths else best


def deepened(asked: Asked, outcome: Outcome) -> Outcome:
    """A training step with the depths that are fastest of all nearby."""
    case, placement = outcome.case, outcome.placement

    def played(depths: Depths) -> Outcome:
        return play_by(asked, case, placement, Wish(), depths)[0]

    depths = best_depths(
        outcome.depths,
        outcome.cost.inflight,
        case.setting.num_microbatches,
        lambda depths: played(depths).seconds,
    )
    return outcome if depths == outcome.depths else played(depths)


def _less_lossy(asked: Asked, best: Outcome) -> Outcome:
    """The same with less lossy codecs wherever they cost next to nothing."""
    if asked.codec is not None or asked.codec_backward is not None:
        return best
    limit = best.seconds * _WORSE
    for sender, receiver in _ways(best):
        for codec in less_lossy(best.case.codecs[sender][receiver]):
            tried = _with_codec(asked, best, sender, receiver, codec)
            if tried.seconds <= limit:
                best = tried
                break
    return best


def _ways(outcome: Outcome) -> list[tuple[int, int]]:
    """Every link that frames take, from device to device; in training gradients up too."""
    down = list(pairwise(stage.device for stage in outcome.placement))
    trains = outcome.case.backward is not None
    return [*down, *((below, above) for above, below in down if trains)]


def _with_codec(asked: Asked, best: Outcome, sender: int, receiver: int, codec: Codec) -> Outcome:
    case = best.case
    table = _replaced(case.codecs, sender, receiver, codec)
    chosen = compression_of(asked.survey, case.rows, table)
    backward = None if case.backward is None else chosen
    return play(asked, posed(asked, case.setting, case.rows, chosen, backward), best.placement)


def _replaced(table: Table, sender: int, receiver: int, codec: Codec) -> Table:
    rows = [list(row) for row in table]
    rows[sender][receiver] = codec
    return tuple(tuple(row) for row in rows)


def _fixed_s(case: Case) -> float:
    return float(case.problem.goal.seconds(0.0, 0.0))


def _train(
    asked: Asked, case: Case, placement: Placement, schedule: Schedule
) -> Simulation[Action]:
    stages = [
        TrainStage(
            place=_place(case, stage.device),
            forward_s=forward_s,
            backward_s=backward_s,
        )
        for stage, (forward_s, backward_s) in zip(
            placement, stage_times(asked, case, placement), strict=True
        )
    ]
    devices = [stage.device for stage in placement]
    boundaries = [
        Boundary(down=_frame(case, above, below), up=_gradient(case, below, above))
        for above, below in pairwise(devices)
    ]
    return train(schedule, stages, boundaries, case.problem.nics)


def stage_times(asked: Asked, case: Case, placement: Placement) -> tuple[tuple[float, float], ...]:
    """Forward and backward seconds of each stage; backward is 0 for inference."""
    if case.setting.objective is not Objective.TRAIN:
        return tuple((seconds, 0.0) for seconds in cost(case.problem, placement).stage_s)
    times = []
    for stage in placement:
        begin, end = item_range(case.problem.num_layers, stage.first, stage.end)
        items = asked.survey.speeds[stage.device].items[begin:end]
        both = [train_seconds(case.setting, item, case.rows.num_rows) for item in items]
        times.append((sum(forward for forward, _ in both), sum(backward for _, backward in both)))
    return tuple(times)


def _place(case: Case, device: int) -> Place:
    where = case.problem.devices[device]
    return Place(name=where.name, host=where.host)


def _frame(case: Case, sender: int, receiver: int) -> Frame:
    problem = case.problem
    return Frame(
        num_bytes=float(problem.frame_bytes[sender, receiver]),
        bytes_per_s=float(problem.link_bytes_per_s[sender, receiver]),
        latency_s=float(problem.link_latency_s[sender, receiver]),
    )


def _gradient(case: Case, sender: int, receiver: int) -> Frame:
    num_bytes = float(case.problem.gradient_bytes[sender, receiver])
    return replace(_frame(case, sender, receiver), num_bytes=num_bytes)
