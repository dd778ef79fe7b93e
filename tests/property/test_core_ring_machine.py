"""The whole ring as decisions: Batching, an Intake per stage and Tails, over queues.

The model is a function of all tokens before the next one, read from a cache that works as an
engine's does. Whatever the order in which frames move, sequences come and cancellations reach
the first and the last stage, every sequence must get the tokens that it gets alone.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edgepipe.core.batching import Batching
from edgepipe.core.frame import DType, FinishReason, Header, JobId, SampledToken, SequenceId
from edgepipe.core.sampling import Sampling
from edgepipe.core.stage import Admission, Intake, Tails

EOS = 0
MAX_POSITIONS = 16
MAX_TOKENS = 5


def next_token(history: Sequence[int]) -> int:
    return zlib.crc32(repr(list(history)).encode()) % 8


def alone(prompt: tuple[int, ...], max_tokens: int) -> list[int]:
    """What one process would generate."""
    tokens: list[int] = []
    while len(tokens) < max_tokens and (not tokens or tokens[-1] != EOS):
        tokens.append(next_token([*prompt, *tokens]))
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

    def forward(self, header: Header, tokens: Sequence[int]) -> list[int]:
        """The next token after each span."""
        assert self.intake.takes(header)
        rest, result = list(tokens), []
        for span in header.spans:
            rows, rest = rest[: span.count], rest[span.count :]
            self.cache[span.slot] = [*self.cache[span.slot][: span.start], *rows]
            assert len(self.cache[span.slot]) == span.end == self.intake.lengths[span.slot]
            result.append(next_token(self.cache[span.slot]))
        return result


class CoreRingMachine(RuleBasedStateMachine):
    @initialize(
        num_stages=st.integers(1, 3),
        num_slots=st.integers(1, 4),
        num_groups=st.integers(1, 3),
        prefill_chunk=st.integers(1, 4),
    )
    def begin(self, num_stages: int, num_slots: int, num_groups: int, prefill_chunk: int) -> None:
        self.batching = Batching(
            num_slots=num_slots,
            num_groups=min(num_slots, num_groups),
            prefill_chunk=prefill_chunk,
        )
        self.tails = Tails()
        self.stages = [Stage(num_slots, prefill_chunk) for _ in range(num_stages)]
        self.boundaries: list[deque[tuple[Header, tuple[int, ...]]]] = [
            deque() for _ in range(num_stages)
        ]
        self.tokens_home: deque[SampledToken] = deque()
        self.expected: dict[int, list[int]] = {}
        self.emitted: dict[int, list[int]] = {}
        self.finished: dict[int, FinishReason] = {}
        self.cancelled: set[int] = set()
        self.to_first: deque[tuple[str, int, tuple[int, ...]]] = deque()
        self.to_last: deque[int] = deque()

    @rule(prompt=st.lists(st.integers(0, 7), min_size=1, max_size=9), max_tokens=st.integers(1, 5))
    def admit(self, prompt: list[int], max_tokens: int) -> None:
        """The last stage hears of it first; the word to the first stage is on its way."""
        sequence = len(self.expected)
        self.expected[sequence] = alone(tuple(prompt), max_tokens)
        self.emitted[sequence] = []
        admission = Admission(
            sequence=SequenceId(sequence),
            prompt_length=len(prompt),
            sampling=Sampling(),
            max_tokens=max_tokens,
            eos_ids=frozenset({EOS}),
        )
        self.tails.admit(admission)
        self.to_first.append(("admit", sequence, tuple(prompt)))

    @precondition(lambda self: set(self.expected) - self.cancelled)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        alive = sorted(set(self.expected) - self.cancelled)
        sequence = data.draw(st.sampled_from(alive))
        self.cancelled.add(sequence)
        self.to_first.append(("cancel", sequence, ()))
        self.to_last.append(sequence)

    @precondition(lambda self: self.to_first)
    @rule()
    def first_stage_obeys(self) -> None:
        word, sequence, prompt = self.to_first.popleft()
        if word == "admit":
            self.batching.admit(SequenceId(sequence), prompt)
        else:
            self.batching.cancel(SequenceId(sequence))

    @precondition(lambda self: self.to_last)
    @rule()
    def last_stage_obeys(self) -> None:
        self.tails.cancel(SequenceId(self.to_last.popleft()))

    @rule()
    def first_stage_sends(self) -> None:
        work = self.batching.next()
        if work is None:
            return
        header = Header(
            job=JobId("job"),
            epoch=1,
            step=0,
            group=work.group,
            spans=work.spans,
            sequences=work.sequences,
            shape=(len(work.token_ids),),
            dtype=DType.INT64,
        )
        self.boundaries[0].append((header, work.token_ids))

    @rule(stage=st.integers(0, 2))
    def a_stage_computes(self, stage: int) -> None:
        stage %= len(self.stages)
        if not self.boundaries[stage]:
            return
        header, tokens = self.boundaries[stage].popleft()
        draws = self.tails.due(header) if stage == len(self.stages) - 1 else ()
        results = self.stages[stage].forward(header, tokens)
        if stage < len(self.stages) - 1:
            self.boundaries[stage + 1].append((header, tokens))
        for draw in draws:
            sampled = self.tails.record(header, draw, results[draw.span], 0.0)
            assert sampled is not None
            self.emit(sampled)

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

    def teardown(self) -> None:
        if not hasattr(self, "stages"):
            return
        while self.to_first:
            self.first_stage_obeys()
        while self.to_last:
            self.last_stage_obeys()
        for _ in range(20 * (len(self.expected) + 1)):
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


CoreRingMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
TestCoreRingMachine = CoreRingMachine.TestCase
