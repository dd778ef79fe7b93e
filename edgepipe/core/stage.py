"""One stage's life: which frames it takes, and, at the last stage, which tokens come of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgepipe.core.drawing import Draw
from edgepipe.core.frame import (
    DType,
    FinishReason,
    Header,
    JobId,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.sampling import Choice, Sampling
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
        if header.drafts and (len(header.spans), len(header.drafts)) != (1, rows - 1):
            raise WireError(
                f"a frame of {len(header.spans)} spans and {rows} rows holds {len(header.drafts)} "
                f"guesses, where each row after the first of an only span is one"
            )

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


@dataclass(slots=True, kw_only=True)
class _Tail:
    """`length` counts the prompt and all that was sampled; `counts` the latter, by token."""

    admission: Admission
    length: int
    counts: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True, kw_only=True)
class Tails:
    """The last stage's table of sequences: it samples, and it ends them."""

    max_sequences: int
    _tails: dict[SequenceId, _Tail] = field(default_factory=dict)

    def admit(self, admission: Admission) -> None:
        """Remember a sequence until it ends or is cancelled.

        Raises WireError if it is here already, or if there are too many.
        """
        if admission.sequence in self._tails:
            raise WireError(f"sequence {admission.sequence} is admitted already")
        if len(self._tails) >= self.max_sequences:
            raise WireError(
                f"sequence {admission.sequence} is one too many: {self.max_sequences} are here"
            )
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
        """The draws that this frame makes possible: spans that end where their sequence ends.

        Guesses stand behind that end. `record` must be told of a draw before the next is due.
        """
        num_drafts = len(header.drafts)
        return tuple(
            Draw(
                span=index,
                position=tail.length,
                sampling=tail.admission.sampling,
                drafts=header.drafts,
                counts=tail.counts,
            )
            for index, (span, sequence) in enumerate(
                zip(header.spans, header.sequences, strict=True)
            )
            if (tail := self._tails.get(sequence)) is not None
            and span.end - num_drafts == tail.length
        )

    def record(
        self, header: Header, draw: Draw, choices: Sequence[Choice]
    ) -> tuple[SampledToken, ...]:
        """Append the tokens that a draw gave, as far as the sequence goes.

        None of them if it was cancelled meanwhile.
        """
        sequence, slot = header.sequences[draw.span], header.spans[draw.span].slot
        tokens: list[SampledToken] = []
        for choice in choices:
            tail = self._tails.get(sequence)
            if tail is None:
                break
            finish = _append(tail, choice.token)
            if finish is not None:
                del self._tails[sequence]
            tokens.append(
                SampledToken(
                    sequence=sequence,
                    slot=slot,
                    position=tail.length - 1,
                    token=choice.token,
                    logprob=choice.logprob,
                    finish=finish,
                    likely=choice.likely,
                )
            )
        return tuple(tokens)


def _append(tail: _Tail, token: int) -> FinishReason | None:
    """Count a token in; why it is the last one, if it is."""
    tail.length += 1
    if tail.admission.sampling.penalises:
        tail.counts[token] += 1
    if token in tail.admission.eos_ids:
        return FinishReason.STOP
    emitted = tail.length - tail.admission.prompt_length
    return FinishReason.LENGTH if emitted >= tail.admission.max_tokens else None
