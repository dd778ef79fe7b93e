"""The devices that a plan does without, and what that gains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgepipe.core.choosing import cases_of, find
from edgepipe.core.going import Going, always
from edgepipe.core.outcome import Outcome, play
from edgepipe.core.pipeline import LeftOut
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Placement

UNNAMED = "its node was not named"
_FEW_EXPANSIONS = 20_000
_NOTHING = 0.001


def left_out(
    asked: Asked, placement: Placement, outcome: Outcome | None, going: Going = always
) -> Iterator[LeftOut]:
    """The devices without a stage; of an exact plan, what leaving each one out gains, in time."""
    used = {stage.device for stage in placement}
    free = asked.num_stages is None and not asked.in_order
    few = f"the plan has {len(placement)} stage{'s' if len(placement) > 1 else ''}"
    for at, candidate in enumerate(asked.survey.devices):
        if at in used:
            continue
        gain, reason = None, few
        if outcome is not None and free and len(used) < asked.model.num_layers:
            gain, reason = _judged(asked, outcome, at, going)
        yield LeftOut(node=candidate.node, device=candidate.device.id, reason=reason, gain=gain)
    for candidate in asked.unnamed:
        yield LeftOut(node=candidate.node, device=candidate.device.id, reason=UNNAMED)


def _judged(asked: Asked, outcome: Outcome, device: int, going: Going) -> tuple[float | None, str]:
    """What leaving the device out gains, and why; only why, once there is no time left."""
    gain = _gain_without(asked, outcome, device, going) if going() else None
    if not going():
        return None, "the search found nothing better with it"
    return gain, _reason(gain)


def _reason(gain: float | None) -> str:
    if gain is None:
        return "no plan that uses it fits"
    return "it would slow the pipeline down" if gain > _NOTHING else "it would speed nothing up"


def _gain_without(asked: Asked, outcome: Outcome, device: int, going: Going) -> float | None:
    """How much faster the plan is than the best that uses the device too; None without one."""
    used = sorted({stage.device for stage in outcome.placement} | {device})
    survey = asked.survey
    smaller = replace(
        asked,
        survey=replace(
            survey,
            devices=tuple(survey.devices[at] for at in used),
            speeds=tuple(survey.speeds[at] for at in used),
        ),
        num_stages=len(used),
    )
    searched = find(
        smaller, cases_of(smaller), num_best=1, max_expansions=_FEW_EXPANSIONS, going=going
    )
    found = [play(smaller, case, placement) for case, placement in searched.candidates[:1]]
    if not found:
        return None
    return found[0].seconds / outcome.seconds - 1 if outcome.seconds else 0.0
