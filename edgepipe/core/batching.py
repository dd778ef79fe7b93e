"""What stage 0 sends next: decode groups, prefill chunks between them, and guesses.

A group decodes in lockstep and has at most one frame in the ring, so that with G groups G stages
are busy at once. Sequences join and leave a group at any token.

Prefill chunks of a new sequence follow one another without waiting and are slotted between the
groups, by turns, so that neither waits for the other's end. Frames of one ring keep their order,
so a freed slot may be used again at once, with what it holds (see `core/slots.py`).

With fewer sequences than groups the ring has time to spare: a sequence that is alone in its frame
sends guesses of its next tokens along (see `core/drafting.py`). The last stage samples every row
until one is not as guessed, so one turn brings home one token and every right guess:

    sent     position 7: a, guesses b c d         the cache ends at 11
    home     position 8: b, 9: c, 10: x           the next span begins at 10, and truncates to it
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from edgepipe.core.drafting import Drafter
from edgepipe.core.frame import SampledToken, SequenceId, Span
from edgepipe.core.slots import Slots
from edgepipe.errors import WireError

MAX_WAITING = 1 << 12
DRAFT_COST = 0.12
"""Of a guess, as a share of a frame's time, where nobody has measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One frame for the ring: the spans, whose they are, and their token ids, packed.

    `drafts` are the last of the only span's tokens, where they are guesses.
    """

    group: int
    spans: tuple[Span, ...]
    sequences: tuple[SequenceId, ...]
    token_ids: tuple[int, ...]
    drafts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    prompt_ids: tuple[int, ...]
    max_tokens: int
    reuse: bool


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """`tokens` are the prompt and all that was sampled; the first `num_sent` of them are cached.

    `drafts` are the guesses in the ring that have not been confirmed yet.
    """

    id: SequenceId
    slot: int
    tokens: list[int]
    prompt_length: int
    max_tokens: int
    num_sent: int
    drafter: Drafter | None
    in_flight: bool = False
    drafts: tuple[int, ...] = ()

    @property
    def is_prefilling(self) -> bool:
        """Some of the prompt is yet to be sent."""
        return self.num_sent < self.prompt_length

    @property
    def num_left(self) -> int:
        """Tokens that it may still get."""
        return self.prompt_length + self.max_tokens - len(self.tokens)


@dataclass(slots=True, kw_only=True)
class Batching:
    """The state of stage 0; every method is a decision without I/O.

    `max_draft` guesses go with a frame at most; `draft_cost` is what each adds to the time of a
    frame, as a fraction of that of a frame of one row.
    """

    num_slots: int
    num_groups: int
    prefill_chunk: int
    max_draft: int = 0
    draft_cost: float = DRAFT_COST
    max_waiting: int = MAX_WAITING
    _slots: Slots = field(init=False)
    _sequences: dict[SequenceId, _Sequence] = field(default_factory=dict)
    _waiting: OrderedDict[SequenceId, _Waiting] = field(default_factory=OrderedDict)
    _prefilling: deque[SequenceId] = field(default_factory=deque)
    _next_group: int = 0
    _prefill_is_due: bool = False

    def __post_init__(self) -> None:
        self._slots = Slots(num_slots=self.num_slots, num_groups=self.num_groups)

    @property
    def group_size(self) -> int:
        """Slots per group, the last group perhaps fewer."""
        return self._slots.group_size

    @property
    def num_running(self) -> int:
        """Sequences in a slot."""
        return len(self._sequences)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a slot."""
        return len(self._waiting)

    @property
    def num_in_flight(self) -> int:
        """Sequences whose next token is awaited."""
        return sum(sequence.in_flight for sequence in self._sequences.values())

    def admit(
        self,
        sequence: SequenceId,
        prompt_ids: tuple[int, ...],
        *,
        max_tokens: int,
        reuse: bool = True,
    ) -> None:
        """Take a sequence in; it waits while every slot is taken.

        Without `reuse` every row of the prompt is computed, as who wants its logits needs.

        Raises WireError if it is here already, or if too many wait.
        """
        assert prompt_ids, "an empty prompt has no last row to sample from"
        if sequence in self._sequences or sequence in self._waiting:
            raise WireError(f"sequence {sequence} is admitted already")
        if len(self._waiting) >= self.max_waiting:
            raise WireError(
                f"sequence {sequence} cannot wait: {self.max_waiting} sequences do already"
            )
        self._waiting[sequence] = _Waiting(
            prompt_ids=prompt_ids, max_tokens=max_tokens, reuse=reuse
        )
        self._fill_slots()

    def cancel(self, sequence: SequenceId) -> None:
        """Forget a sequence; what it has in the ring is ignored when it comes home."""
        self._waiting.pop(sequence, None)
        self._free(sequence)

    def returned(self, sampled: SampledToken) -> None:
        """The last stage sampled a token: it is sent next, unless the sequence has ended.

        A token that is as guessed is in the ring already, and another one is due behind it.

        Raises WireError for a token that nothing in the ring asked for.
        """
        sequence = self._sequences.get(sampled.sequence)
        if sequence is None:
            return
        due = len(sequence.tokens)
        if not sequence.in_flight or sampled.position != due:
            raise WireError(
                f"a token for position {sampled.position} of sequence {sampled.sequence} came back "
                f"where position {due} was due"
            )
        sequence.tokens.append(sampled.token)
        if sequence.drafter is not None:
            sequence.drafter.observe(sampled.token)
        is_sent = sequence.drafts[:1] == (sampled.token,)
        sequence.num_sent += is_sent
        sequence.drafts = sequence.drafts[1:] if is_sent else ()
        sequence.in_flight = is_sent
        if sampled.finish is not None:
            self._free(sampled.sequence)

    def next(self, *, ahead: bool = False) -> Work | None:
        """The next frame, or None until something is admitted or returned.

        `ahead`, while another is computed: a group that is home and whose turn it is. A chunk of a
        prompt is not chosen so early, for a group may come home meanwhile.
        """
        if ahead:
            return None if self._prefill_is_due and self._prefilling else self._decode()
        if self._prefill_is_due:
            return self._prefill() or self._decode()
        return self._decode() or self._prefill()

    def _decode(self) -> Work | None:
        """A group all of whose decoding members are home, groups in turn."""
        for offset in range(self.num_groups):
            group = (self._next_group + offset) % self.num_groups
            members = self._decoding(group)
            if members and not any(member.in_flight for member in members):
                self._next_group = (group + 1) % self.num_groups
                self._prefill_is_due = True
                return self._step(group, members)
        return None

    def _step(self, group: int, members: list[_Sequence]) -> Work:
        """A token of every member, and guesses behind an only one."""
        starts = [member.num_sent for member in members]
        tokens = [member.tokens[member.num_sent] for member in members]
        drafts = self._drafts(members[0]) if len(members) == 1 else ()
        for member in members:
            member.num_sent += 1
            member.in_flight = True
        members[0].drafts = drafts
        return Work(
            group=group,
            spans=tuple(
                Span(slot=member.slot, start=start, count=1 + len(drafts))
                for member, start in zip(members, starts, strict=True)
            ),
            sequences=tuple(member.id for member in members),
            token_ids=(*tokens, *drafts),
            drafts=drafts,
        )

    def _drafts(self, sequence: _Sequence) -> tuple[int, ...]:
        """Guesses, as many as may be sampled and sent, where the ring has time for them."""
        if sequence.drafter is None or len(self._sequences) >= max(2, self.num_groups):
            return ()
        limit = min(self.max_draft, sequence.num_left - 1, self.prefill_chunk - 1)
        return sequence.drafter.propose(sequence.tokens, limit)

    def _prefill(self) -> Work | None:
        """The next chunk of the sequence that was admitted first."""
        if not self._prefilling:
            return None
        self._prefill_is_due = False
        sequence = self._sequences[self._prefilling[0]]
        start = sequence.num_sent
        sequence.num_sent += self._chunk(sequence.prompt_length - start)
        if not sequence.is_prefilling:
            sequence.in_flight = True
            self._prefilling.popleft()
        return Work(
            group=self._slots.group(sequence.slot),
            spans=(Span(slot=sequence.slot, start=start, count=sequence.num_sent - start),),
            sequences=(sequence.id,),
            token_ids=tuple(sequence.tokens[start : sequence.num_sent]),
        )

    def _chunk(self, num_left: int) -> int:
        """Rows of the next chunk, which leaves no last one of a single row.

        A single row may take another kernel than several, with other rounding.
        """
        chunk = min(self.prefill_chunk, num_left)
        return chunk - 1 if num_left - chunk == 1 < chunk else chunk

    def _decoding(self, group: int) -> list[_Sequence]:
        members = [self._sequences[sequence] for sequence in self._slots.members(group)]
        return [member for member in members if not member.is_prefilling]

    def _fill_slots(self) -> None:
        while self._waiting and not self._slots.is_full:
            sequence, waiting = self._waiting.popitem(last=False)
            seat = self._slots.take(sequence, waiting.prompt_ids, reuse=waiting.reuse)
            self._sequences[sequence] = _Sequence(
                id=sequence,
                slot=seat.slot,
                tokens=list(waiting.prompt_ids),
                prompt_length=len(waiting.prompt_ids),
                max_tokens=waiting.max_tokens,
                num_sent=seat.num_shared,
                drafter=Drafter(row_cost=self.draft_cost) if self.max_draft else None,
            )
            self._prefilling.append(sequence)

    def _free(self, sequence: SequenceId) -> None:
        state = self._sequences.pop(sequence, None)
        if state is not None:
            if state.is_prefilling:
                self._prefilling.remove(sequence)
            self._slots.free(state.slot, state.tokens[: state.num_sent])
        self._fill_slots()
