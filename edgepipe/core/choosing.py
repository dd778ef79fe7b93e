"""The best plan over all settings: searched by the closed cost model, chosen by simulation.

each setting ─▶ search ─▶ the best 32 of all ─┐
                      rivals in each setting ─┴▶ simulate ─▶ the winner
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgepipe.core.costs import cost
from edgepipe.core.going import Going, always
from edgepipe.core.guessing import guess
from edgepipe.core.outcome import Outcome, play, refine
from edgepipe.core.posing import Asked, Case, pose
from edgepipe.core.problem import Placement, Problem
from edgepipe.core.search import Search
from edgepipe.core.setting import settings_of

NUM_SIMULATED = 32
MAX_EXPANSIONS = 200_000
_CLOSE = 1.1
"""A setting is searched for what may be up to so many times slower than the best of another."""

_ROUNDING = 1e-9

Rule = Callable[[Problem], Placement]
"""Places a model on a problem's devices; () where it cannot."""

Progress = Callable[[int, int], None]
"""Called with settings done and settings in all."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Searched:
    """What the search found over all settings: the best candidates of any, and its gap."""

    cases: tuple[Case, ...]
    candidates: tuple[tuple[Case, Placement], ...]
    gap: float


def cases_of(asked: Asked) -> tuple[Case, ...]:
    """A case for every setting."""
    return tuple(pose(asked, setting) for setting in settings_of(asked.work))


def find(
    asked: Asked,
    cases: Sequence[Case],
    *,
    num_best: int = NUM_SIMULATED,
    max_expansions: int = MAX_EXPANSIONS,
    progress: Progress = lambda _done, _total: None,
    going: Going = always,
) -> Searched:
    """Search every case for the `num_best` best placements of all, of those close to the best.

    What one case has found tells the others what is not worth finding. The next step is always in
    the case where most may be left; of those not begun, the one whose guess is best comes first.
    `max_expansions` is for each case, `going` for all of them.
    """
    ranking = _Ranking(asked=asked, num=num_best)
    for case in cases:
        ranking.offer_guess(case, wanted=going() or not ranking.ranked)
    runs = [
        _Run(
            case=cases[at],
            weight=cases[at].setting.weight(asked.work),
            search=Search.of(
                cases[at].problem, num_best=num_best, max_expansions=max_expansions, going=going
            ),
        )
        for at in sorted(range(len(cases)), key=lambda at: ranking.guessed[at])
    ]
    told = 0
    progress(told, len(cases))
    while going():
        unfinished = [run for run in runs if run.limited(ranking.worth)]
        told = _tell(progress, told, len(cases) - len(unfinished), len(cases))
        if not unfinished:
            break
        run = min(unfinished, key=lambda run: run.left)
        for other in runs:
            if other is not run:
                other.search.held = None  # tables of several cases may be too large
        run.search.step()
        ranking.offer(run.case, run.search.best.ranks)
    _tell(progress, told, len(cases), len(cases))
    left = min((run.left for run in runs), default=np.inf)
    gap = 0.0
    if left < ranking.best:
        gap = float(1 - left / ranking.best) if np.isfinite(ranking.best) else 1.0
    return Searched(
        cases=tuple(cases),
        candidates=ranking.candidates,
        gap=gap if gap > _ROUNDING else 0.0,
    )


def _tell(progress: Progress, told: int, done: int, total: int) -> int:
    """Tell of every setting that is done since."""
    for each in range(told + 1, done + 1):
        progress(each, total)
    return max(told, done)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Run:
    """A case's search; `weight` makes its ranks those of one unit."""

    case: Case
    weight: float
    search: Search

    @property
    def left(self) -> float:
        """Nothing that is not yet found ranks below it, or below what is worth finding."""
        return self.search.left * self.weight

    def limited(self, worth: float) -> bool:
        """Look for no more than what ranks below `worth`; whether there may be such."""
        self.search.best.worth = min(self.search.best.worth, worth / self.weight)
        return self.search.open


@dataclass(slots=True, kw_only=True)
class _Ranking:
    """The best placements of all cases so far, at most `num`, by their ranks in one unit."""

    asked: Asked
    num: int
    guessed: list[float] = field(default_factory=list)
    ranked: list[tuple[float, Case, Placement]] = field(default_factory=list)

    @property
    def best(self) -> float:
        """The best rank, or infinity."""
        return self.ranked[0][0] if self.ranked else np.inf

    @property
    def worth(self) -> float:
        """What ranks below this is worth finding: it is close to the best, and among so many."""
        last = self.ranked[-1][0] if len(self.ranked) == self.num else np.inf
        return min(self.best * _CLOSE, last)

    @property
    def candidates(self) -> tuple[tuple[Case, Placement], ...]:
        """The best first."""
        return tuple((case, placement) for _, case, placement in self.ranked)

    def offer_guess(self, case: Case, *, wanted: bool) -> None:
        """Begin with the case's guess, if it fits and is wanted."""
        guessed = guess(case.problem) if wanted else None
        self.guessed.append(np.inf)
        if guessed is not None:
            rank, placement = guessed
            self.guessed[-1] = rank * case.setting.weight(self.asked.work)
            self._add([(self.guessed[-1], case, placement)])

    def offer(self, case: Case, ranks: Mapping[Placement, float]) -> None:
        """Take in what was found in a case."""
        weight = case.setting.weight(self.asked.work)
        known = {placement for _, other, placement in self.ranked if other is case}
        self._add(
            (weight * rank, case, placement)
            for placement, rank in ranks.items()
            if placement not in known
        )

    def _add(self, ranked: Iterable[tuple[float, Case, Placement]]) -> None:
        self.ranked = sorted([*self.ranked, *ranked], key=lambda each: each[0])[: self.num]


def best_of(asked: Asked, candidates: Iterable[tuple[Case, Placement]]) -> Outcome | None:
    """The best of those that fit, simulated, with codecs no lossier than they need be."""
    played = [
        play(asked, case, placement)
        for case, placement in candidates
        if placement and cost(case.problem, placement).fits
    ]
    if not played:
        return None
    return refine(asked, min(played, key=_rank))


def _rank(outcome: Outcome) -> float:
    """The simulated figure, and of equal ones the less busy."""
    return outcome.seconds + _ROUNDING * outcome.cost.bottleneck.seconds


def by_rule(asked: Asked, cases: Sequence[Case], rule: Rule) -> Outcome | None:
    """What a rule comes to in the setting that suits it best; None where it fits in none."""
    return best_of(asked, [(case, rule(case.problem)) for case in cases])
