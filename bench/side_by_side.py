"""Two sides of one case, measured in turns: ratios, and the bounds that they are held against."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.rank_task import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What must hold: times as fast as the rival's best schedule, and times the ideal step."""

    min_ratio: float | None = None
    max_over_ideal: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of both sides, one after the other: seconds of a step. A side may be left out."""

    rival: Mapping[Schedule, float] = field(default_factory=dict)
    edgepipe: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What was measured of one setting, turn by turn, and what an ideal step takes, if known."""

    name: str
    bounds: Bounds
    turns: Sequence[Turn]
    ideal_step_s: float | None = None

    def rival_step_s(self, schedule: Schedule) -> float | None:
        """Its median over the turns."""
        return _median(turn.rival[schedule] for turn in self.turns if schedule in turn.rival)

    @property
    def best_schedule(self) -> Schedule | None:
        """The rival's fastest."""
        medians = {schedule: self.rival_step_s(schedule) for schedule in Schedule}
        found = {schedule: seconds for schedule, seconds in medians.items() if seconds is not None}
        return min(found, key=found.__getitem__, default=None)

    @property
    def edgepipe_step_s(self) -> float | None:
        """Its median over the turns."""
        return _median(turn.edgepipe for turn in self.turns if turn.edgepipe is not None)

    @property
    def ratio(self) -> float | None:
        """How many times as fast edgepipe is as the rival's best: the median of the turns' ratios.

        Only what was measured in one turn is compared: machines are noisy over longer times.
        """
        best = self.best_schedule
        if best is None:
            return None
        return _median(
            turn.rival[best] / turn.edgepipe for turn in self.turns if turn.edgepipe is not None
        )

    @property
    def over_ideal(self) -> float | None:
        """edgepipe's step over the ideal one: 1.1 is a tenth longer."""
        if self.edgepipe_step_s is None or self.ideal_step_s is None:
            return None
        return self.edgepipe_step_s / self.ideal_step_s

    def missed(self) -> Iterator[str]:
        """A sentence for every bound that does not hold."""
        least, most = self.bounds.min_ratio, self.bounds.max_over_ideal
        if least is not None and self.ratio is not None and self.ratio < least:
            yield (
                f"{self.name}: edgepipe is {self.ratio:.2f} times as fast as "
                f"{self.best_schedule}, and {least:.2f} is wanted"
            )
        if most is not None and self.over_ideal is not None and self.over_ideal > most:
            yield (
                f"{self.name}: edgepipe's step is {self.over_ideal:.2f} times the ideal one, "
                f"and at most {most:.2f} is wanted"
            )

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "ideal_step_s": self.ideal_step_s,
            "edgepipe_step_s": self.edgepipe_step_s,
            "rival_step_s": {schedule: self.rival_step_s(schedule) for schedule in Schedule},
            "best_schedule": self.best_schedule,
            "ratio": self.ratio,
            "min_ratio": self.bounds.min_ratio,
            "over_ideal": self.over_ideal,
            "max_over_ideal": self.bounds.max_over_ideal,
            "turns": [{**turn.rival, "edgepipe": turn.edgepipe} for turn in self.turns],
            "missed": list(self.missed()),
        }


def _median(values: Iterator[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None
