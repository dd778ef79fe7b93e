"""Batching against a tiny model of the ring: a queue of frames, each home in the order sent."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edgepipe.core.batching import Batching, Work
from edgepipe.core.frame import FinishReason, SampledToken, SequenceId


@dataclass(slots=True)
class Known:
    """What a sequence must have sent by now: its prompt, and the tokens that came home."""

    prompt_length: int
    tokens: list[int]
    num_sent: int = 0
    slot: int | None = None


@dataclass
class Model:
    sequences: dict[int, Known] = field(default_factory=dict)
    ring: deque[Work] = field(default_factory=deque)


class BatchingMachine(RuleBasedStateMachine):
    @initialize(
        num_slots=st.integers(1, 5),
        num_groups=st.integers(1, 5),
        prefill_chunk=st.integers(1, 4),
    )
    def begin(self, num_slots: int, num_groups: int, prefill_chunk: int) -> None:
        self.batching = Batching(
            num_slots=num_slots,
            num_groups=min(num_slots, num_groups),
            prefill_chunk=prefill_chunk,
        )
        self.model = Model()
        self.num_admitted = 0

    @rule(prompt_length=st.integers(1, 9))
    def admit(self, prompt_length: int) -> None:
        sequence = SequenceId(self.num_admitted)
        self.num_admitted += 1
        prompt = [1000 * sequence + index for index in range(prompt_length)]
        self.model.sequences[sequence] = Known(prompt_length, prompt)
        self.batching.admit(sequence, tuple(prompt), max_tokens=1000)

    @rule()
    def send(self) -> None:
        work = self.batching.next()
        if work is not None:
            self.check(work)
            self.model.ring.append(work)

    @precondition(lambda self: self.model.ring)
    @rule(ends=st.booleans())
    def turn(self, ends: bool) -> None:
        """The oldest frame comes home: a token for every live sequence whose end it holds."""
        work = self.model.ring.popleft()
        for span, sequence in zip(work.spans, work.sequences, strict=True):
            known = self.model.sequences.get(sequence)
            if known is None or span.end != len(known.tokens):
                continue
            token = 1000 * sequence + span.end
            sampled = SampledToken(
                sequence=sequence,
                slot=span.slot,
                position=span.end,
                token=token,
                logprob=0.0,
                finish=FinishReason.LENGTH if ends else None,
            )
            self.batching.returned(sampled)
            known.tokens.append(token)
            if ends:
                del self.model.sequences[sequence]

    @precondition(lambda self: self.model.sequences)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.model.sequences)))
        del self.model.sequences[sequence]
        self.batching.cancel(SequenceId(sequence))

    def check(self, work: Work) -> None:
        assert len(work.spans) == len(work.sequences) == len(set(work.sequences)) > 0
        assert len(work.token_ids) == sum(span.count for span in work.spans)
        tokens = list(work.token_ids)
        is_prefill = False
        for span, sequence in zip(work.spans, work.sequences, strict=True):
            known = self.model.sequences[sequence]
            assert span.start == known.num_sent, "a span starts where its sequence stands"
            assert span.count >= 1
            sent, tokens = tokens[: span.count], tokens[span.count :]
            assert sent == known.tokens[span.start : span.end], "each token once and in order"
            known.num_sent = span.end
            assert known.slot in {None, span.slot}, "a sequence keeps its slot"
            known.slot = span.slot
            assert 0 <= span.slot < self.batching.num_slots
            assert span.slot // self.batching.group_size == work.group
            is_prefill |= span.start < known.prompt_length
        assert not is_prefill or len(work.token_ids) <= self.batching.prefill_chunk
        if not is_prefill:
            assert all(span.count == 1 for span in work.spans)
            assert not any(self.is_decode(frame, work.group) for frame in self.model.ring)

    def is_decode(self, work: Work, group: int) -> bool:
        """Whether a frame decodes that group: a live member is past its prompt."""
        live = [
            (span, known)
            for span, sequence in zip(work.spans, work.sequences, strict=True)
            if (known := self.model.sequences.get(sequence))
        ]
        return work.group == group and any(span.start >= k.prompt_length for span, k in live)

    @invariant()
    def slots_are_never_shared(self) -> None:
        slots = [known.slot for known in self.model.sequences.values() if known.slot is not None]
        assert len(slots) == len(set(slots)) <= self.batching.num_slots

    def teardown(self) -> None:
        """As long as the ring turns and sequences end, everybody who waits gets in and ends."""
        if not hasattr(self, "batching"):
            return
        for _ in range(12 * (self.num_admitted + 1)):
            self.send()
            if self.model.ring:
                self.turn(ends=True)
        assert not self.model.sequences


BatchingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBatchingMachine = BatchingMachine.TestCase
