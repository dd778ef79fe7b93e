"""The whole ring as decisions: Batching, an Intake per stage and Tails, over queues.

The model is a function of all tokens before the next one, read from a cache that works as an
engine's does. Whatever the order in which frames move, sequences come and cancellations reach
the first and the last stage, every sequence must get the tokens that it gets alone, with guesses
and without, also where it goes on from what another one left in its slot.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from edgepipe.core.batching import Batching, Work
from edgepipe.core.drawing import draw_all
from edgepipe.core.frame import DType, FinishReason, Header, JobId, SampledToken, SequenceId, Span
from edgepipe.core.sampling import Logits, Sampling, sample
from edgepipe.core.stage import Admission, Intake, Tails

EOS = 0
VOCAB = 8
MAX_POSITIONS = 55
"""The longest prompt and the most tokens, but for the last, which is not fed back."""
SHARED = tuple(1 + index * index % 7 for index in range(30))
"""Prompts begin with a part of it, so that slots hold what others need."""
SAMPLINGS = (
    Sampling(),
    Sampling(temperature=0.7, seed=5),
    Sampling(frequency_penalty=0.4, presence_penalty=0.4),
)


def number(history: Sequence[int]) -> int:
    return zlib.crc32(repr(list(history)).encode())


def logits_after(history: Sequence[int]) -> Logits:
    """The last two tokens decide as often as not: text repeats itself. The rest, all of them."""
    row = np.zeros(VOCAB, np.float32)
    row[number(history[-2:]) % VOCAB] = 3
    row[number(history) % VOCAB] += 2 + number(history) // VOCAB % 3
    return row


def alone(admission: Admission, prompt: tuple[int, ...]) -> list[int]:
    """What one process would generate."""
    tokens: list[int] = []
    while len(tokens) < admission.max_tokens and (not tokens or tokens[-1] != EOS):
        history = [*prompt, *tokens]
        counts = {token: tokens.count(token) for token in tokens}
        choice = sample(logits_after(history), admission.sampling, len(history), counts)
        tokens.append(choice.token)
    return tokens


class Stage:
    """An Intake, and a cache [slot, position] of token ids for an engine."""

    def __init__(self, num_slots: int, prefill_chunk: int) -> None:
        self.intake = Intake(
            job=JobId("job"),
            epoch=1,
            num_slots=num_slots,
            max_positions=MAX_POSITIONS,
            max_rows=max(num_slots, prefill_chunk),
            row_shape=(),
            dtypes=frozenset({DType.INT64}),
        )
        self.cache: list[list[int]] = [[] for _ in range(num_slots)]

    def forward(self, header: Header, tokens: Sequence[int]) -> Logits:
        """The logits of every row."""
        assert self.intake.takes(header)
        rest, result = list(tokens), []
        for span in header.spans:
            rows, rest = rest[: span.count], rest[span.count :]
            self.cache[span.slot] = [*self.cache[span.slot][: span.start], *rows]
            assert len(self.cache[span.slot]) == span.end == self.intake.lengths[span.slot]
            ends = range(span.start + 1, span.end + 1)
            result += [logits_after(self.cache[span.slot][:end]) for end in ends]
        return np.array(result)


def header_of(work: Work) -> Header:
    return Header(
        job=JobId("job"),
        epoch=1,
        step=0,
        group=work.group,
        spans=work.spans,
        sequences=work.sequences,
        shape=(len(work.token_ids),),
        dtype=DType.INT64,
        drafts=work.drafts,
    )


def rows_of(spans: Sequence[Span], num_drafts: int) -> list[int]:
    """The first row of each span that a token is drawn from."""
    ends = np.cumsum([span.count for span in spans])
    return [int(end) - 1 - num_drafts for end in ends]


class CoreRingMachine(RuleBasedStateMachine):
    @initialize(
        num_stages=st.integers(1, 3),
        num_slots=st.integers(1, 4),
        num_groups=st.integers(1, 3),
        prefill_chunk=st.integers(1, 9),
        max_draft=st.sampled_from([0, 1, 3, 8]),
    )
    def begin(
        self,
        num_stages: int,
        num_slots: int,
        num_groups: int,
        prefill_chunk: int,
        max_draft: int,
    ) -> None:
        self.batching = Batching(
            num_slots=num_slots,
            num_groups=min(num_slots, num_groups),
            prefill_chunk=prefill_chunk,
            max_draft=max_draft,
        )
        self.tails = Tails(max_sequences=1000)
        self.stages = [Stage(num_slots, prefill_chunk) for _ in range(num_stages)]
        self.boundaries: list[deque[tuple[Header, tuple[int, ...]]]] = [
            deque() for _ in range(num_stages)
        ]
        self.tokens_home: deque[SampledToken] = deque()
        self.expected: dict[int, list[int]] = {}
        self.emitted: dict[int, list[int]] = {}
        self.finished: dict[int, FinishReason] = {}
        self.cancelled: set[int] = set()
        self.to_first: deque[tuple[Admission, tuple[int, ...]] | int] = deque()
        self.to_last: deque[int] = deque()

    @rule(
        num_shared=st.integers(0, len(SHARED)),
        own=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=6),
        max_tokens=st.integers(1, 20),
        sampling=st.sampled_from(SAMPLINGS),
        reuse=st.booleans(),
    )
    def admit(
        self, num_shared: int, own: list[int], max_tokens: int, sampling: Sampling, reuse: bool
    ) -> None:
        """The last stage hears of it first; the word to the first stage is on its way."""
        sequence, prompt = len(self.expected), (*SHARED[:num_shared], *own)
        admission = Admission(
            sequence=SequenceId(sequence),
            prompt_length=len(prompt),
            sampling=sampling,
            max_tokens=max_tokens,
            eos_ids=frozenset({EOS}),
            prompt_logits=not reuse,
        )
        self.expected[sequence] = alone(admission, prompt)
        self.emitted[sequence] = []
        self.tails.admit(admission)
        self.to_first.append((admission, prompt))

    @precondition(lambda self: set(self.expected) - self.cancelled)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        alive = sorted(set(self.expected) - self.cancelled)
        sequence = data.draw(st.sampled_from(alive))
        self.cancelled.add(sequence)
        self.to_first.append(sequence)
        self.to_last.append(sequence)

    @precondition(lambda self: self.to_first)
    @rule()
    def first_stage_obeys(self) -> None:
        word = self.to_first.popleft()
        if isinstance(word, int):
            self.batching.cancel(SequenceId(word))
            return
        admission, prompt = word
        self.batching.admit(
            admission.sequence,
            prompt,
            max_tokens=admission.max_tokens,
            reuse=not admission.prompt_logits,
        )

    @precondition(lambda self: self.to_last)
    @rule()
    def last_stage_obeys(self) -> None:
        self.tails.cancel(SequenceId(self.to_last.popleft()))

    @rule()
    def first_stage_sends(self) -> None:
        work = self.batching.next()
        if work is not None:
            self.boundaries[0].append((header_of(work), work.token_ids))

    @rule(stage=st.integers(0, 2))
    def a_stage_computes(self, stage: int) -> None:
        stage %= len(self.stages)
        if not self.boundaries[stage]:
            return
        header, tokens = self.boundaries[stage].popleft()
        draws = self.tails.due(header) if stage == len(self.stages) - 1 else ()
        logits = self.stages[stage].forward(header, tokens)
        if stage < len(self.stages) - 1:
            self.boundaries[stage + 1].append((header, tokens))
        rows = rows_of(header.spans, len(header.drafts))
        drawn = draw_all(logits, draws, [rows[draw.span] for draw in draws])
        for draw, choices in zip(draws, drawn, strict=True):
            sampled = self.tails.record(header, draw, choices)
            assert sampled
            for token in sampled:
                self.emit(token)

    def emit(self, sampled: SampledToken) -> None:
        self.tokens_home.append(sampled)
        self.emitted[sampled.sequence].append(sampled.token)
        assert sampled.sequence not in self.finished
        if sampled.finish is not None:
            self.finished[sampled.sequence] = sampled.finish

    @precondition(lambda self: self.tokens_home)
    @rule()
    def a_token_comes_home(self) -> None:
        self.batching.returned(self.tokens_home.popleft())

    @invariant()
    def a_slot_is_one_sequence_s(self) -> None:
        if hasattr(self, "batching"):
            seated = self.batching._slots._taken
            assert sorted(seated.values()) == sorted(self.batching._sequences)
            assert not set(self.batching._waiting) & set(seated.values())

    def teardown(self) -> None:
        if not hasattr(self, "stages"):
            return
        while self.to_first:
            self.first_stage_obeys()
        while self.to_last:
            self.last_stage_obeys()
        for _ in range(80 * (len(self.expected) + 1)):
            self.first_stage_sends()
            for stage in range(len(self.stages)):
                self.a_stage_computes(stage)
            while self.tokens_home:
                self.a_token_comes_home()
        for sequence, expected in self.expected.items():
            emitted = self.emitted[sequence]
            if sequence in self.cancelled:
                assert emitted == expected[: len(emitted)]
            else:
                assert emitted == expected
                is_stop = expected[-1] == EOS
                reason = FinishReason.STOP if is_stop else FinishReason.LENGTH
                assert self.finished[sequence] is reason
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        batching = self.batching
        assert not batching._sequences
        assert not batching._waiting
        assert not batching._prefilling
        assert not batching._slots._taken
        assert not self.tails._tails


CoreRingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCoreRingMachine = CoreRingMachine.TestCase
