"""One stage's life: which frames it takes, and, at the last stage, which tokens come of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepipe.core.frame import (
    DType,
    FinishReason,
    Header,
    JobId,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.sampling import Sampling
from edgepipe.errors import WireError


@dataclass(slots=True, kw_only=True)
class Intake:
    """Checks every arriving header before anything is decoded or computed.

    `lengths` is the number of cached positions per slot: a span may begin anywhere up to it.
    Frames of an older epoch are dropped and counted; their stream lives.
    """

    job: JobId
    epoch: int
    num_slots: int
    max_positions: int
    max_rows: int
    row_shape: tuple[int, ...]
    dtypes: frozenset[DType]
    dropped: int = 0
    lengths: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [0] * self.num_slots

    def takes(self, header: Header) -> bool:
        """Whether to compute this frame. Raises WireError on one that cannot be right."""
        if header.job != self.job:
            raise WireError(f"a frame of job {header.job} arrived at a stage of job {self.job}")
        if header.epoch != self.epoch:
            self.dropped += 1
            return False
        self._check_rows(header)
        for span in header.spans:
            self._check_span(span)
        for span in header.spans:
            self.lengths[span.slot] = span.end
        return True

    def _check_rows(self, header: Header) -> None:
        rows = sum(span.count for span in header.spans)
        if not 0 < rows <= self.max_rows:
            raise WireError(
                f"a frame of {rows} rows arrived where 1 to {self.max_rows} are allowed"
            )
        if header.shape != (rows, *self.row_shape) or header.dtype not in self.dtypes:
            raise WireError(
                f"a frame has shape {header.shape} {header.dtype}, "
                f"not {(rows, *self.row_shape)} {'/'.join(sorted(self.dtypes))}"
            )
        if len(header.sequences) != len(header.spans):
            raise WireError("a frame does not name one sequence per span")
        for named in ([span.slot for span in header.spans], header.sequences):
            if len(set(named)) != len(named):
                raise WireError("a frame names a slot or a sequence twice")

    def _check_span(self, span: Span) -> None:
        if span.slot >= self.num_slots:
            raise WireError(f"slot {span.slot} does not exist, there are {self.num_slots}")
        if span.count < 1 or span.end > self.max_positions:
            raise WireError(
                f"positions {span.start} to {span.end} leave the cache of {self.max_positions}"
            )
        if span.start > self.lengths[span.slot]:
            raise WireError(
                f"slot {span.slot} holds {self.lengths[span.slot]} positions, "
                f"a span cannot begin at {span.start}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the last stage knows of a sequence before its first row arrives."""

    sequence: SequenceId
    prompt_length: int
    sampling: Sampling
    max_tokens: int
    eos_ids: frozenset[int]
    prompt_logits: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One token to sample: from the last row of a frame's span, for `position`."""

    span: int
    position: int
    sampling: Sampling


@dataclass(slots=True, kw_only=True)
class _Tail:
    admission: Admission
    length: int


@dataclass(slots=True, kw_only=True)
class Tails:
    """The last stage's table of sequences: it samples, and it ends them."""

    _tails: dict[SequenceId, _Tail] = field(default_factory=dict)

    def admit(self, admission: Admission) -> None:
        """Remember a sequence until it ends or is cancelled."""
        self._tails[admission.sequence] = _Tail(admission=admission, length=admission.prompt_length)

    def cancel(self, sequence: SequenceId) -> None:
        """Forget a sequence; rows of it that are on their way are not sampled."""
        self._tails.pop(sequence, None)

    def wants_logits(self, header: Header) -> bool:
        """Whether the frame holds prompt rows of a sequence that asked for their logits."""
        return any(
            tail.admission.prompt_logits and span.start < tail.admission.prompt_length
            for span, sequence in zip(header.spans, header.sequences, strict=True)
            if (tail := self._tails.get(sequence)) is not None
        )

    def due(self, header: Header) -> tuple[Draw, ...]:
        """The draws that this frame makes possible: spans that end where their sequence ends."""
        return tuple(
            Draw(span=index, position=tail.length, sampling=tail.admission.sampling)
            for index, (span, sequence) in enumerate(
                zip(header.spans, header.sequences, strict=True)
            )
            if (tail := self._tails.get(sequence)) is not None and span.end == tail.length
        )

    def record(self, header: Header, draw: Draw, token: int, logprob: float) -> SampledToken | None:
        """Append the token that a draw gave; None if the sequence was cancelled meanwhile."""
        sequence = header.sequences[draw.span]
        tail = self._tails.get(sequence)
        if tail is None:
            return None
        finish = _finish(tail, token)
        tail.length += 1
        if finish is not None:
            del self._tails[sequence]
        return SampledToken(
            sequence=sequence,
            slot=header.spans[draw.span].slot,
            position=draw.position,
            token=token,
            logprob=logprob,
            finish=finish,
        )


def _finish(tail: _Tail, token: int) -> FinishReason | None:
    if token in tail.admission.eos_ids:
        return FinishReason.STOP
    emitted = tail.length + 1 - tail.admission.prompt_length
    return FinishReason.LENGTH if emitted >= tail.admission.max_tokens else None
