"""What a plan is for: the objective, and how much of what is to be done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgepipe.core.fit import Workload

DEFAULT_PROMPT_TOKENS = 512


class Strategy(StrEnum):
    """How layers are shared out. `manual` takes the user's split."""

    EXACT = "exact"
    PROPORTIONAL = "proportional"
    EQUAL = "equal"
    MANUAL = "manual"


class Objective(StrEnum):
    """What a plan is to be good at."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"
    PREFILL = "prefill"
    TRAIN = "train"


class TrainMode(StrEnum):
    """What is trained: adapters beside frozen weights, or all weights."""

    LORA = "lora"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a training step learns from: so many sequences of so many tokens, on average.

    `longest` is of any sequence, where they are unequal: memory is for that. `learned` is the share
    of tokens that have a target: of no others the head computes logits. The user may have said
    into how many microbatches it is cut, and whether activations are computed again.
    """

    mode: TrainMode = TrainMode.LORA
    sequences: int = 8
    sequence_length: int = 512
    rank: int = 16
    longest: int | None = None
    learned: float = 1.0
    microbatches: int | None = None
    recompute: bool | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of a step."""
        return self.sequences * self.sequence_length

    @property
    def adapter_rank(self) -> int:
        """Of the adapters that are trained; 0 where all weights are."""
        return self.rank if self.mode is TrainMode.LORA else 0

    def most_rows(self, num_microbatches: int) -> int:
        """Tokens of a microbatch, at most."""
        return -(-self.sequences // num_microbatches) * (self.longest or self.sequence_length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """An objective, what memory is for, and the prompt; `batch` is for training alone.

    Answers of `answer_tokens` are expected; None: of as many as there is room for.
    """

    objective: Objective
    workload: Workload
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS
    answer_tokens: int | None = None
    batch: Batch | None = None

    @property
    def prompt(self) -> int:
        """Tokens of the prompt that is planned for: it leaves room for one more."""
        return max(1, min(self.prompt_tokens, self.workload.max_positions - 1))

    @property
    def num_chunks(self) -> int:
        """Frames in which the prompt is prefilled."""
        return -(-self.prompt // self.workload.prefill_chunk)

    @property
    def chunk_rows(self) -> float:
        """Rows of such a frame, on average."""
        return self.prompt / self.num_chunks

    @property
    def decode_context(self) -> float:
        """Cached positions that a decoded token sees, on average."""
        room = self.workload.max_positions - self.prompt
        answer = room if self.answer_tokens is None else min(self.answer_tokens, room)
        return self.prompt + answer / 2
