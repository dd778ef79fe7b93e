"""What a run's stages did while they answered, beside what was predicted of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgepipe.coordinator.generation import Answer
from edgepipe.coordinator.launch import Running
from edgepipe.coordinator.stage_client import StageMeter
from edgepipe.core.comparison import Comparison, Term, compare

MIN_TOKENS = 16
"""Fewer tokens, or shorter prompts, say little of a profile."""
LATE_TURNS = 4
"""A meter that is read after the first token may miss that many turns that went by meanwhile."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """Reads the stages' meters before a prompt, after its first token, and at the end."""

    running: Running
    _meters: list[Sequence[StageMeter]] = field(default_factory=list)

    async def read(self) -> None:
        """Note what every stage has done so far."""
        self._meters.append(await self.running.pipeline.meter())

    def decode(self, answer: Answer) -> Comparison | None:
        """The time of a token; None without a prediction, with too few tokens, or with guesses.

        Guesses make turns of the ring fewer and longer than predicted.
        """
        predicted = self.running.plan.predicted
        phase = None if predicted is None else predicted.decode
        if phase is None or len(self._meters) < 3 or answer.num_sampled < MIN_TOKENS:
            return None
        last_before, last_after = self._meters[1][-1], self._meters[2][-1]
        turns = last_after.num_frames - last_before.num_frames
        if turns < answer.num_sampled - 1 - LATE_TURNS:
            return None
        stage_s = _per_frame(self._meters[1], self._meters[2])
        return compare(phase, measured_s=1 / answer.tokens_per_s, stage_s=stage_s)

    def prefill(self, answer: Answer) -> Comparison | None:
        """The time to the first token; None without a prediction for a prompt of its length."""
        predicted = self.running.plan.predicted
        phase = None if predicted is None else predicted.prefill
        frame = self.running.plan.inputs.frame
        length = len(answer.asked.prompt_ids)
        planned = frame is not None and frame.prompt_tokens == length
        if phase is None or len(self._meters) < 3 or length < MIN_TOKENS or not planned:
            return None
        tokens_s = _per_frame(self._meters[1], self._meters[2])
        stage_s = [
            max(0.0, _busy_s(before, after) - _more(before, after, phase.num_frames) * token_s)
            / phase.num_frames
            for before, after, token_s in zip(*self._meters[:2], tokens_s, strict=True)
        ]
        return compare(phase, measured_s=answer.ttft_s, stage_s=stage_s)


def _busy_s(before: StageMeter, after: StageMeter) -> float:
    return after.busy_s - before.busy_s


def _more(before: StageMeter, after: StageMeter, num_frames: int) -> int:
    """Frames of decode that were done before the meter was read."""
    return max(0, after.num_frames - before.num_frames - num_frames)


def _per_frame(before: Sequence[StageMeter], after: Sequence[StageMeter]) -> list[float]:
    return [
        _busy_s(one, two) / max(1, two.num_frames - one.num_frames)
        for one, two in zip(before, after, strict=True)
    ]


def blame(running: Running, comparison: Comparison, home: Path) -> str:
    """Drop the profile of the term that was wrong; the sentence that says so."""
    term = comparison.wrong
    surveyed, stages = running.surveyed, running.plan.stages
    if surveyed is not None and term.stage is not None:
        stage = stages[term.stage]
        surveyed.forget_device(home, stage.node, stage.device)
    elif surveyed is not None:
        keys = [(stage.node, stage.device) for stage in stages]
        for sender, receiver in zip(keys, [*keys[1:], keys[0]], strict=True):
            surveyed.forget_hop(home, sender, receiver)
    after = "it is measured anew next time" if surveyed is not None else "plan anew"
    return (
        f"the prediction was wrong by {abs(comparison.error):.0%}: {_what(running, term)}; {after}"
    )


def _what(running: Running, term: Term) -> str:
    times = f"{1000 * term.measured_s:.3g} ms, not the {1000 * term.predicted_s:.3g} ms of its"
    if term.stage is None:
        return f"the hops took {times.removesuffix(' of its')} of the profiles"
    stage = running.plan.stages[term.stage]
    return f"{stage.node} ({stage.device}) took {times} profile"
