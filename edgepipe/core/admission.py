"""Who generates now, who waits, and who is sent away: sequences against a pipeline's slots.

arrive ─▶ waiting, first come, first served ─▶ running, a slot each ─▶ leave
   │ the queue is full: all sequences of a request are refused together

Slots come and go with the pipeline. While there is none, or one that is about to be replaced, who
waits goes on waiting, and nobody starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgepipe.core.frame import SequenceId

MAX_RETRY_AFTER_S = 60
PATIENCE_S = 120.0
"""How long a sequence waits while there is no pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """There is no room; about when there will be."""

    retry_after_s: int


@dataclass(slots=True, kw_only=True)
class FrontDesk:
    """The sequences that hold a slot, and those that wait for one. It is closed at first.

    A slot has room in the KV cache for a whole sequence, so that what runs never lacks memory.
    Times are seconds of one monotonic clock.
    """

    num_slots: int
    max_waiting: int
    patience_s: float = PATIENCE_S
    is_open: bool = False
    _running: set[SequenceId] = field(default_factory=set)
    _waiting: dict[SequenceId, float] = field(default_factory=dict)
    _missing_s: float | None = None

    @property
    def running(self) -> frozenset[SequenceId]:
        """The sequences that hold a slot."""
        return frozenset(self._running)

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

    def open(self, num_slots: int) -> tuple[SequenceId, ...]:
        """A pipeline with so many slots stands; those that may start now."""
        self.num_slots, self.is_open, self._missing_s = num_slots, True, None
        return self._start()

    def hold(self) -> None:
        """Start nobody until it is opened again."""
        self.is_open = False

    def close(self, now_s: float) -> None:
        """There is no pipeline from now on."""
        self.is_open = False
        if self._missing_s is None:
            self._missing_s = now_s

    def overdue(self, now_s: float) -> tuple[SequenceId, ...]:
        """Those that have waited for a pipeline for as long as anybody should."""
        if self._missing_s is None:
            return ()
        since_s = self._missing_s
        return tuple(
            sequence
            for sequence, arrived_s in self._waiting.items()
            if now_s - max(arrived_s, since_s) >= self.patience_s
        )

    def arrive(
        self, sequences: Sequence[SequenceId], *, slot_s: float, now_s: float
    ) -> tuple[SequenceId, ...] | Refused:
        """Take a request's sequences in, or none of them; those that may start now.

        `slot_s` is for how long a sequence holds its slot, as far as is known.
        """
        if self.num_running + self.num_waiting + len(sequences) > self.capacity:
            turns = (self.num_waiting + len(sequences)) / self.num_slots
            wait_s = math.ceil(turns * slot_s)
            return Refused(retry_after_s=min(max(wait_s, 1), MAX_RETRY_AFTER_S))
        self._waiting |= dict.fromkeys(sequences, now_s)
        return self._start()

    def leave(self, sequence: SequenceId) -> tuple[SequenceId, ...]:
        """A sequence has ended, or nobody wants it any more; those that may start now."""
        self._waiting.pop(sequence, None)
        self._running.discard(sequence)
        return self._start()

    def _start(self) -> tuple[SequenceId, ...]:
        num_free = max(0, self.num_slots - self.num_running) if self.is_open else 0
        started = tuple(self._waiting)[:num_free]
        for sequence in started:
            del self._waiting[sequence]
            self._running.add(sequence)
        return started
