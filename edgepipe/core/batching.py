"""What stage 0 sends next: it owns the slots, the decode groups and the prefill chunks.

Slots are split into groups, each a contiguous run; a group decodes in lockstep and has at most
one frame in the ring, so that with G groups G stages are busy at once:

    slots   0 1 2 3 | 4 5 6 7        num_slots = 8, num_groups = 2
    group       0   |    1

Prefill chunks of a new sequence follow one another without waiting and are slotted between the
groups, by turns, so that neither waits for the other's end. Frames of one ring keep their order,
so a freed slot may be used again at once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edgepipe.core.frame import SampledToken, SequenceId, Span
from edgepipe.errors import WireError


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One frame for the ring: the spans, whose they are, and their token ids, packed."""

    group: int
    spans: tuple[Span, ...]
    sequences: tuple[SequenceId, ...]
    token_ids: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class _Sequence:
    """`pending` are the tokens not yet sent; `start` is the position of the first of them."""

    id: SequenceId
    slot: int
    pending: list[int]
    start: int = 0
    prefilling: bool = True
    in_flight: bool = False


@dataclass(slots=True, kw_only=True)
class Batching:
    """The state of stage 0; every method is a decision without I/O."""

    num_slots: int
    num_groups: int
    prefill_chunk: int
    _sequences: dict[SequenceId, _Sequence] = field(default_factory=dict)
    _slots: dict[int, SequenceId] = field(default_factory=dict)
    _waiting: deque[tuple[SequenceId, tuple[int, ...]]] = field(default_factory=deque)
    _next_group: int = 0
    _prefill_is_due: bool = False

    @property
    def group_size(self) -> int:
        """Slots per group, the last group perhaps fewer."""
        return -(-self.num_slots // self.num_groups)

    def admit(self, sequence: SequenceId, prompt_ids: tuple[int, ...]) -> None:
        """Take a sequence in; it waits while every slot is taken.

        Raises WireError if it is here already.
        """
        assert prompt_ids, "an empty prompt has no last row to sample from"
        if sequence in self._sequences or any(waiting == sequence for waiting, _ in self._waiting):
            raise WireError(f"sequence {sequence} is admitted already")
        self._waiting.append((sequence, prompt_ids))
        self._fill_slots()

    def cancel(self, sequence: SequenceId) -> None:
        """Forget a sequence; what it has in the ring is ignored when it comes home."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != sequence)
        self._free(sequence)

    def returned(self, sampled: SampledToken) -> None:
        """The last stage sampled a token: it is sent next, unless the sequence has ended.

        Raises WireError for a token that nothing in the ring asked for.
        """
        sequence = self._sequences.get(sampled.sequence)
        if sequence is None:
            return
        if not sequence.in_flight or sampled.position != sequence.start:
            raise WireError(
                f"a token for position {sampled.position} of sequence {sampled.sequence} came back "
                f"where position {sequence.start} was due"
            )
        if sampled.finish is not None:
            self._free(sampled.sequence)
            return
        sequence.pending = [sampled.token]
        sequence.in_flight = False

    def next(self) -> Work | None:
        """The next frame, or None until something is admitted or returned."""
        if self._prefill_is_due:
            return self._prefill() or self._decode()
        return self._decode() or self._prefill()

    def _decode(self) -> Work | None:
        """A group all of whose decoding members are home, groups in turn."""
        for offset in range(self.num_groups):
            group = (self._next_group + offset) % self.num_groups
            members = [s for s in self._members(group) if not s.prefilling]
            if members and not any(s.in_flight for s in members):
                self._next_group = (group + 1) % self.num_groups
                self._prefill_is_due = True
                return self._send(group, [(member, 1) for member in members])
        return None

    def _prefill(self) -> Work | None:
        """The next chunk of the sequence that was admitted first."""
        for sequence in self._sequences.values():
            if sequence.prefilling:
                self._prefill_is_due = False
                count = min(self.prefill_chunk, len(sequence.pending))
                return self._send(self._group(sequence.slot), [(sequence, count)])
        return None

    def _send(self, group: int, parts: list[tuple[_Sequence, int]]) -> Work:
        token_ids = tuple(token for sequence, count in parts for token in sequence.pending[:count])
        spans = tuple(
            Span(slot=sequence.slot, start=sequence.start, count=count) for sequence, count in parts
        )
        for sequence, count in parts:
            sequence.start += count
            del sequence.pending[:count]
            if not sequence.pending:
                sequence.prefilling = False
                sequence.in_flight = True
        ids = tuple(sequence.id for sequence, _ in parts)
        return Work(group=group, spans=spans, sequences=ids, token_ids=token_ids)

    def _group(self, slot: int) -> int:
        return slot // self.group_size

    def _members(self, group: int) -> list[_Sequence]:
        slots = range(group * self.group_size, min((group + 1) * self.group_size, self.num_slots))
        return [self._sequences[self._slots[slot]] for slot in slots if slot in self._slots]

    def _fill_slots(self) -> None:
        while self._waiting and len(self._slots) < self.num_slots:
            sequence, prompt_ids = self._waiting.popleft()
            slot = self._best_slot()
            self._slots[slot] = sequence
            self._sequences[sequence] = _Sequence(id=sequence, slot=slot, pending=list(prompt_ids))

    def _best_slot(self) -> int:
        """A free slot of the group with the fewest members, so that few sequences spread out."""
        free = [slot for slot in range(self.num_slots) if slot not in self._slots]
        return min(free, key=lambda slot: (len(self._members(self._group(slot))), slot))

    def _free(self, sequence: SequenceId) -> None:
        state = self._sequences.pop(sequence, None)
        if state is not None:
            del self._slots[state.slot]
        self._fill_slots()
