"""Who generates now, who waits, and who is sent away: sequences against a pipeline's slots.

arrive ─▶ waiting, first come, first served ─▶ running, a slot each ─▶ leave
   │ the queue is full: all sequences of a request are refused together
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgepipe.core.frame import SequenceId

MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """There is no room; about when there will be."""

    retry_after_s: int


@dataclass(slots=True, kw_only=True)
class FrontDesk:
    """The sequences that hold a slot, and those that wait for one.

    A slot has room in the KV cache for a whole sequence, so that what runs never lacks memory.
    """

    num_slots: int
    max_waiting: int
    _running: set[SequenceId] = field(default_factory=set)
    _waiting: dict[SequenceId, None] = field(default_factory=dict)

    @property
    def num_running(self) -> int:
        """Sequences that hold a slot."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for one."""
        return len(self._waiting)

    @property
    def capacity(self) -> int:
        """Sequences that can be here at once."""
        return self.num_slots + self.max_waiting

    def arrive(
        self, sequences: Sequence[SequenceId], *, slot_s: float
    ) -> tuple[SequenceId, ...] | Refused:
        """Take a request's sequences in, or none of them; those that may start now.

        `slot_s` is for how long a sequence holds its slot, as far as is known.
        """
        if self.num_running + self.num_waiting + len(sequences) > self.capacity:
            turns = (self.num_waiting + len(sequences)) / self.num_slots
            wait_s = math.ceil(turns * slot_s)
            return Refused(retry_after_s=min(max(wait_s, 1), MAX_RETRY_AFTER_S))
        self._waiting |= dict.fromkeys(sequences)
        return self._start()

    def leave(self, sequence: SequenceId) -> tuple[SequenceId, ...]:
        """A sequence has ended, or nobody wants it any more; those that may start now."""
        self._waiting.pop(sequence, None)
        self._running.discard(sequence)
        return self._start()

    def _start(self) -> tuple[SequenceId, ...]:
        started = tuple(self._waiting)[: self.num_slots - self.num_running]
        for sequence in started:
            del self._waiting[sequence]
            self._running.add(sequence)
        return started
