"""One answer: tokens from the pipeline become text, and are timed."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from edgepipe.coordinator.pipeline import Pipeline
from edgepipe.coordinator.text import TextStream, Tokenizer
from edgepipe.core.frame import FinishReason, SampledToken, SequenceId
from edgepipe.core.job import Request
from edgepipe.core.sampling import Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is wanted of one sequence."""

    sequence: SequenceId
    prompt_ids: Sequence[int]
    sampling: Sampling
    max_tokens: int
    eos_ids: Collection[int]
    stops: Sequence[str] = ()


@dataclass(slots=True, kw_only=True)
class Answer:
    """One sequence while it is generated, and after.

    `sampled` are the tokens as they came, with their log-probabilities. `ttft_s` runs from the
    request to its first token, `tokens_per_s` from the first token to the last: the rate of
    decoding alone.
    """

    asked: Asked
    stream: TextStream
    finish: FinishReason | None = None
    began_s: float = field(default_factory=time.perf_counter)
    sampled: list[SampledToken] = field(default_factory=list)
    _token_s: list[float] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text, without stop string and special tokens."""
        return self.stream.text

    @property
    def token_ids(self) -> list[int]:
        """The tokens that count."""
        return self.stream.token_ids

    @property
    def num_sampled(self) -> int:
        """Tokens that came, those that a stop string cut off included."""
        return len(self._token_s)

    @property
    def ttft_s(self) -> float:
        """Seconds from the request to the first token."""
        return self._token_s[0] - self.began_s if self._token_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens per second of decoding; of the whole where there is only one."""
        if len(self._token_s) < 2:
            return 1 / self.ttft_s if self._token_s else 0.0
        return (len(self._token_s) - 1) / (self._token_s[-1] - self._token_s[0])

    def take(self, sampled: SampledToken) -> str:
        """Take a token; the text that is certain now."""
        self._token_s.append(time.perf_counter())
        self.sampled.append(sampled)
        piece = self.stream.feed(sampled.token)
        if self.stream.stopped:
            self.finish = FinishReason.STOP
        elif sampled.finish is not None:
            self.finish = sampled.finish
            piece += self.stream.finish()
        return piece


def ask(tokenizer: Tokenizer, asked: Asked) -> Answer:
    """An answer that is about to be generated."""
    return Answer(asked=asked, stream=tokenizer.stream(stops=asked.stops, eos_ids=asked.eos_ids))


async def generate(pipeline: Pipeline, answer: Answer) -> AsyncGenerator[str, None]:
    """Fill `answer`; the pieces of its text as they become certain."""
    asked = answer.asked
    request = Request(
        sequence=asked.sequence,
        prompt_ids=tuple(asked.prompt_ids),
        sampling=asked.sampling,
        max_tokens=asked.max_tokens,
        eos_ids=frozenset(asked.eos_ids),
    )
    answer.began_s = time.perf_counter()
    async with aclosing(pipeline.generate(request)) as tokens:
        async for produced in tokens:
            if isinstance(produced, SampledToken):
                yield answer.take(produced)
                if answer.finish is not None:
                    return
