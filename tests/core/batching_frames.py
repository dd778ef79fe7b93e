"""Frames of stage 0 as text, and what comes home.

A frame reads `group: sequence@slot[start:end]=tokens …`, e.g. `0: 7@0[0:3]=10,11,12`.
"""

from __future__ import annotations

from edgepipe.core.batching import Batching, Work
from edgepipe.core.frame import FinishReason, SampledToken, SequenceId

LOOP = (1, 2, 3, 1, 2, 3, 1)
"""After it comes 2, 3, 1, 2, 3, 1 …"""


def batching(
    num_slots: int = 1, num_groups: int = 1, prefill_chunk: int = 4, **more: int
) -> Batching:
    return Batching(num_slots=num_slots, num_groups=num_groups, prefill_chunk=prefill_chunk, **more)


def admit(state: Batching, sequence: int, prompt_length: int) -> None:
    """A prompt of sequence 7 is 70, 71, 72 …"""
    tokens = range(10 * sequence, 10 * sequence + prompt_length)
    state.admit(SequenceId(sequence), tuple(tokens), max_tokens=100)


def frame(work: Work | None) -> str | None:
    if work is None:
        return None
    tokens, spans = list(work.token_ids), []
    for span, sequence in zip(work.spans, work.sequences, strict=True):
        own, tokens = tokens[: span.count], tokens[span.count :]
        ids = ",".join(map(str, own))
        spans.append(f"{sequence}@{span.slot}[{span.start}:{span.end}]={ids}")
    assert not tokens
    return f"{work.group}: {' '.join(spans)}"


def next_frame(state: Batching) -> str | None:
    return frame(state.next())


def home(
    state: Batching, sequence: int, position: int, token: int = 5, *, last: bool = False
) -> None:
    """The last stage's token for a position came back; `last` ends the sequence."""
    state.returned(
        SampledToken(
            sequence=SequenceId(sequence),
            slot=0,
            position=position,
            token=token,
            logprob=0.0,
            finish=FinishReason.STOP if last else None,
        )
    )


def drafting(num_slots: int = 1, num_groups: int = 1, **more: int) -> Batching:
    """A batching that guesses four tokens after `LOOP`, which sequence 7 has sent."""
    state = batching(num_slots, num_groups, **{"prefill_chunk": 8, "max_draft": 16, **more})
    state.admit(SequenceId(7), LOOP, max_tokens=20)
    state.next()
    return state
