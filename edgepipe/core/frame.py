"""What crosses a stage boundary: a header that describes the rows, and the encoded rows.

A frame carries the hidden state of one group of sequences (or one microbatch), packed row by
row in the order of its spans, or, on the way back from the last stage to the first, the tokens
that were sampled.

    spans   [{slot 0, start 7, count 1}, {slot 1, start 3, count 1}]
    shape   [2, hidden]              one row per token of every span
    payload rows encoded by `codec`  (see edgepipe.codec)

Headers, frames and tokens, made anew on every hop, are NamedTuples: a frozen dataclass takes three
times as long. (A span cannot be one: its `count` is a method of every tuple.)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, NewType

JobId = NewType("JobId", str)
SequenceId = NewType("SequenceId", int)
"""One request, unique within a job."""


class DType(StrEnum):
    """The element types that may cross a boundary."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT64 = "int64"

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return _ITEMSIZE[self]


_ITEMSIZE = {DType.FLOAT32: 4, DType.BFLOAT16: 2, DType.FLOAT16: 2, DType.INT64: 8}


class Codec(StrEnum):
    """How rows are written into a payload; `auto` is resolved before anything is sent.

    `int4` is for activations alone, and only where the user asks for it.
    """

    NONE = "none"
    BF16 = "bf16"
    INT8 = "int8"
    INT4 = "int4"


class Direction(StrEnum):
    """Forward carries activations, backward gradients."""

    FORWARD = "forward"
    BACKWARD = "backward"


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """`count` tokens of the sequence in `slot`, from position `start` on.

    A span that starts below the cached length truncates the cache to `start` first.
    """

    slot: int
    start: int
    count: int

    @property
    def end(self) -> int:
        """The first position after the span."""
        return self.start + self.count


class Likely(NamedTuple):
    """A token of high probability, and its log-probability."""

    token: int
    logprob: float


class SampledToken(NamedTuple):
    """One token, sampled by the last stage for position `position` of a sequence.

    `likely` are the most probable ones there. They and `logprob`, which is None otherwise, are told
    where the sequence asked for them.
    """

    sequence: SequenceId
    slot: int
    position: int
    token: int
    logprob: float | None = None
    finish: FinishReason | None = None
    likely: tuple[Likely, ...] = ()


class Header(NamedTuple):
    """All of a frame but its payload.

    `shape` and `dtype` describe the decoded tensor; `payload_bytes` and `checksum` (CRC-32) the
    encoded one. `group` is a decode group or a microbatch; `sequences` names each span's owner.
    `drafts` are the tokens of the only span's rows after its first, where they are guesses.
    """

    job: JobId
    epoch: int
    step: int
    group: int
    spans: tuple[Span, ...] = ()
    sequences: tuple[SequenceId, ...] = ()
    direction: Direction = Direction.FORWARD
    shape: tuple[int, ...] = ()
    dtype: DType = DType.FLOAT32
    codec: Codec = Codec.NONE
    payload_bytes: int = 0
    checksum: int = 0
    trace_id: int = 0
    sampled: tuple[SampledToken, ...] = ()
    drafts: tuple[int, ...] = ()


class Frame(NamedTuple):
    """A header and its encoded payload (a contiguous byte buffer, empty for token returns)."""

    header: Header
    payload: memoryview
