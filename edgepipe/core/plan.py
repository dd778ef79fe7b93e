"""Which device runs which layers: the plan, its rivals, and whether they fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from edgepipe.core.candidates import check_enough, choose
from edgepipe.core.choosing import (
    MAX_EXPANSIONS,
    Progress,
    Rule,
    Searched,
    best_of,
    by_rule,
    cases_of,
    find,
)
from edgepipe.core.costs import cost
from edgepipe.core.going import Going, always
from edgepipe.core.inputs import inputs
from edgepipe.core.leaving import left_out
from edgepipe.core.outcome import Outcome
from edgepipe.core.pipeline import Plan, Rival
from edgepipe.core.placing import proportional, ranged, roomiest
from edgepipe.core.posing import Asked, Case
from edgepipe.core.prediction import predict
from edgepipe.core.problem import Placement
from edgepipe.core.split import equal_split, manual_split
from edgepipe.core.staging import stages_of
from edgepipe.core.work import Strategy
from edgepipe.errors import SplitError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Found:
    """What a strategy came to: an outcome that fits, or else the placement that lacks least."""

    outcome: Outcome | None
    lacking: tuple[Case, Placement]
    gap: float = 0.0


def plan(
    asked: Asked,
    *,
    strategy: Strategy,
    split: Sequence[int] | None = None,
    rivals: Collection[Strategy] = tuple(Strategy),
    judging: bool = True,
    max_expansions: int = MAX_EXPANSIONS,
    progress: Progress = lambda _done, _total: None,
    going: Going = always,
) -> Plan:
    """Share the model's layers out to devices, one stage each, and check that they fit.

    Args:
        asked: the model, the devices that may be used, and what for.
        strategy: `exact` searches subset, order and cuts; `proportional` and `equal` use all
            devices, in proportion to their speed or with as many layers as can be; `manual` takes
            `split`.
        rivals: the strategies that it is compared with, and that `exact` may not be worse than.
        split: the layers at which a new stage begins, for `manual`, or for it as a rival.
        judging: an exact plan says what each device that it leaves out would cost, which takes
            about as long as the search; of those for which there is time.
        max_expansions: see `search`.
        progress: told how far the search is.
        going: says for how long to search on; then the gap is what may still be better.

    Raises:
        SplitError: the split does not rise inside the model, or does not match the devices.
        UsageError: a strategy without what it needs.
        PlanError: fewer devices or layers than stages.
    """
    rules = _rules(asked, strategy, split)
    cases = cases_of(asked)
    by_strategy = {
        name: by_rule(asked, cases, rule)
        for name, rule in rules.items()
        if name in {strategy, *rivals}
    }
    found = {
        name: _Found(outcome=outcome, lacking=_lacking(cases, rules[name]))
        for name, outcome in by_strategy.items()
    }
    if Strategy.EXACT in {strategy, *rivals}:
        searched = find(asked, cases, max_expansions=max_expansions, progress=progress, going=going)
        found[Strategy.EXACT] = _exact(asked, searched, by_strategy, rules)
    return _plan(asked, strategy, found, judging=judging, going=going)


def check_strategy(strategy: Strategy, split: Sequence[int] | None) -> None:
    """Raises UsageError for a strategy without the split that it needs, or with one too many."""
    if split is not None and strategy in {Strategy.EQUAL, Strategy.PROPORTIONAL}:
        raise UsageError(
            f"a split needs the strategy manual: leave out --split or --strategy {strategy}"
        )
    if strategy is Strategy.MANUAL and split is None:
        raise UsageError("the strategy manual needs --split, as in --split 10,20")


def _rules(asked: Asked, strategy: Strategy, split: Sequence[int] | None) -> dict[Strategy, Rule]:
    """The strategies that are rules, as what they place; those that cannot be are left out."""
    check_strategy(strategy, split)
    rules: dict[Strategy, Rule] = {}
    if split is not None:
        rules[Strategy.MANUAL] = _manual(asked, split)
    if strategy is Strategy.MANUAL and asked.num_stages is None and not asked.in_order:
        asked = replace(asked, num_stages=len(split or ()) + 1)
    devices = _all_devices(asked)
    ranges = equal_split(asked.model.num_layers, len(devices))
    rules[Strategy.PROPORTIONAL] = lambda problem: proportional(problem, devices)
    rules[Strategy.EQUAL] = lambda _: ranged(ranges, devices)
    return rules


def _all_devices(asked: Asked) -> tuple[int, ...]:
    """The devices of a plan that uses all it can, or as many as were asked for."""
    candidates = asked.survey.devices
    used = choose(
        candidates,
        num_stages=asked.num_stages,
        num_layers=asked.model.num_layers,
        exactly=asked.in_order,
    )
    return tuple(candidates.index(candidate) for candidate in used)


def _manual(asked: Asked, split: Sequence[int]) -> Rule:
    ranges = manual_split(asked.model.num_layers, split)
    count, here = len(ranges), len(asked.survey.devices)
    wanted = asked.num_stages or (here if asked.in_order else count)
    if wanted != count:
        raise SplitError(
            f"the split makes {count} stages for {wanted} devices: "
            "it must name one layer fewer than there are devices"
        )
    check_enough(asked.survey.devices, count)
    return lambda _: ranged(ranges, range(count))


def _lacking(cases: Sequence[Case], rule: Rule) -> tuple[Case, Placement]:
    """What a rule places, in the setting where it lacks least."""
    placed = [(case, rule(case.problem)) for case in cases]
    return min(
        (each for each in placed if each[1]),
        key=lambda each: _short_by(*each),
        default=placed[0],
    )


def _short_by(case: Case, placement: Placement) -> int:
    return cost(case.problem, placement).short_by_bytes


def _exact(
    asked: Asked,
    searched: Searched,
    rivals: Mapping[Strategy, Outcome | None],
    rules: Mapping[Strategy, Rule],
) -> _Found:
    """The winner of what was searched and of all rivals."""
    best = best_of(asked, searched.candidates)
    outcomes = [each for each in (best, *rivals.values()) if each is not None]
    every = _all_devices(asked)
    least: list[Rule] = [*rules.values(), lambda problem: roomiest(problem, every)]
    return _Found(
        outcome=min(outcomes, key=lambda outcome: outcome.seconds, default=None),
        lacking=min(
            (_lacking(searched.cases, rule) for rule in least), key=lambda each: _short_by(*each)
        ),
        gap=searched.gap,
    )


def _plan(
    asked: Asked,
    strategy: Strategy,
    found: Mapping[Strategy, _Found],
    *,
    judging: bool,
    going: Going,
) -> Plan:
    mine = found[strategy]
    case, placement = (
        mine.lacking if mine.outcome is None else (mine.outcome.case, mine.outcome.placement)
    )
    costs = cost(case.problem, placement)
    exact = strategy is Strategy.EXACT
    return Plan(
        model=asked.model.name,
        objective=asked.work.objective,
        strategy=strategy,
        feasible=mine.outcome is not None,
        short_by_bytes=costs.short_by_bytes,
        microbatches=case.setting.num_microbatches,
        recompute=case.setting.recompute,
        num_groups=case.setting.num_groups,
        gap=mine.gap if exact else 0.0,
        stages=stages_of(asked, case, placement, mine.outcome),
        left_out=tuple(
            left_out(asked, placement, mine.outcome if exact and judging else None, going)
        ),
        shortages=costs.shortages,
        predicted=None if mine.outcome is None else predict(asked, mine.outcome),
        rivals=tuple(
            _rival(asked, name, each)
            for name, each in sorted(found.items())
            if name is not strategy
        ),
        inputs=inputs(asked, case),
    )


def _rival(asked: Asked, strategy: Strategy, found: _Found) -> Rival:
    outcome = found.outcome
    case, placement = found.lacking if outcome is None else (outcome.case, outcome.placement)
    return Rival(
        strategy=strategy,
        feasible=outcome is not None,
        short_by_bytes=0 if outcome is not None else _short_by(case, placement),
        predicted=None if outcome is None else predict(asked, outcome),
        stages=stages_of(asked, case, placement, outcome),
    )
