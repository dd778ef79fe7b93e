"""Which sequence is in which slot, and what the free slots still hold.

Slots are split into groups, each a contiguous run:

    slots   0 1 2 3 | 4 5 6 7        num_slots = 8, num_groups = 2
    group       0   |    1

A free slot's cache keeps the tokens of the sequence that left it. One whose prompt begins with
the same tokens may take the slot and go on behind them: a span truncates its slot to where it
starts. That is safe at once, also after a cancellation with frames still in the ring, since every
stage takes the frames in the order in which stage 0 sent them: what stage 0 has sent is cached
wherever the next frame of the slot arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgepipe.core.frame import SequenceId

MIN_SHARED = 16
"""Fewer shared tokens are prefilled anew: they save nothing that could be measured."""
MEMBER_TOKENS = 64
"""Shared tokens that are worth being one more in a group than in the emptiest. A prefilled token
is saved once; a member more is a row more in every frame of its group."""
_MIN_ROWS = 2
"""Of a prompt are computed in any case: the last gives the first token, and a chunk of a single
row may take another kernel than a longer one."""

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """A slot for a sequence; its cache holds the first `num_shared` tokens of the prompt."""

    slot: int
    num_shared: int


@dataclass(slots=True, kw_only=True)
class Slots:
    """`_cached` are the tokens in the caches of free slots, the slot that was left first first."""

    num_slots: int
    num_groups: int
    _taken: dict[int, SequenceId] = field(default_factory=dict)
    _cached: dict[int, Tokens] = field(default_factory=dict)

    @property
    def group_size(self) -> int:
        """Slots per group, the last group perhaps fewer."""
        return -(-self.num_slots // self.num_groups)

    @property
    def is_full(self) -> bool:
        """Every slot is taken."""
        return len(self._taken) == self.num_slots

    def group(self, slot: int) -> int:
        """The group that a slot belongs to."""
        return slot // self.group_size

    def members(self, group: int) -> list[SequenceId]:
        """The sequences of a group, by slot."""
        slots = range(group * self.group_size, min((group + 1) * self.group_size, self.num_slots))
        return [self._taken[slot] for slot in slots if slot in self._taken]

    def take(self, sequence: SequenceId, prompt_ids: Sequence[int], *, reuse: bool) -> Seat:
        """Seat a sequence; there must be a free slot.

        In the group with the fewest members, so that few sequences spread out, unless another's
        free slot saves enough of the prompt. Of equal slots, the one that was left longest ago.
        """
        prompt = np.array(prompt_ids, np.int32)
        free = [slot for slot in range(self.num_slots) if slot not in self._taken]
        shared = {slot: self._shared(slot, prompt) if reuse else 0 for slot in free}
        members = {group: len(self.members(group)) for group in {*map(self.group, free)}}
        ages = {slot: age for age, slot in enumerate(self._cached, start=1)}

        def rank(slot: int) -> tuple[int, int, int, int]:
            size = members[self.group(slot)]
            return MEMBER_TOKENS * size - shared[slot], size, ages.get(slot, 0), slot

        best = min(free, key=rank)
        self._taken[best] = sequence
        self._cached.pop(best, None)
        return Seat(slot=best, num_shared=shared[best])

    def free(self, slot: int, cached: Sequence[int]) -> None:
        """A sequence leaves its slot, whose cache begins with these tokens."""
        del self._taken[slot]
        self._cached[slot] = np.array(cached, np.int32)

    def _shared(self, slot: int, prompt: Tokens) -> int:
        """How many of the prompt's first tokens a free slot saves."""
        cached = self._cached.get(slot)
        if cached is None:
            return 0
        longest = max(0, min(len(cached), len(prompt) - _MIN_ROWS))
        differing = np.flatnonzero(cached[:longest] != prompt[:longest])
        shared = int(differing[0]) if differing.size else longest
        return shared if shared >= MIN_SHARED else 0
