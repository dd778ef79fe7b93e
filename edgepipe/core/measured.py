"""A measurement of one device: what is asked for, and what comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepipe.core.frame import DType
from edgepipe.core.speed import CodecSpeed, DeviceSpeed, ItemSpeed, check_seconds, expand
from edgepipe.core.weight_format import WeightFormat

NEAR_POSITIONS = 64
"""Cached positions that a decoded row sees where its seconds are measured."""
FAR_POSITIONS = 1024
"""And where it is measured what more of them cost."""
MAX_DECODE_ROWS = 32
SMALLEST_CHUNK = 16
MAX_PREFILL_ROWS = 512
ENOUGH_TRAIN_ROWS = 256
"""A microbatch of that many rows keeps a device as busy, row for row, as a larger one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What to measure: the points follow from the sizes that are wanted.

    Where `sequence_length` is not 0, training is measured, and nothing else: of adapters of `rank`
    beside frozen weights, or of all weights where that is 0. Weights, KV cache and activations of
    what is measured at once take at most `memory_bytes`, as far as one layer does. The engine holds
    matrices in `weight_format`, or as `dtype` where that is None; with `offsets` it finds those of
    layers in blocks of 4 bits that have an offset each, and keeps that.
    """

    dtype: DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    memory_bytes: int
    sequence_length: int = 0
    rank: int = 0
    engine: str = "torch"
    weight_format: WeightFormat | None = None
    offsets: bool = False

    @property
    def decode_rows(self) -> tuple[int, ...]:
        """1, 2, 4 … up to one row per slot."""
        most = min(self.num_slots, MAX_DECODE_ROWS)
        return (*(1 << i for i in range(most.bit_length()) if 1 << i < most), most)

    @property
    def prefill_rows(self) -> tuple[int, ...]:
        """1, then 16, 32 … up to a whole chunk."""
        most = min(self.prefill_chunk, MAX_PREFILL_ROWS, self.max_positions)
        sizes = (SMALLEST_CHUNK << i for i in range(most.bit_length()))
        return tuple(dict.fromkeys((1, *(size for size in sizes if size < most), most)))

    @property
    def near(self) -> int:
        """Cached positions at which rows are decoded."""
        return min(NEAR_POSITIONS, self.max_positions - 1)

    @property
    def far(self) -> int:
        """Cached positions at which attention is measured again, at least `near`."""
        room = self.max_positions - self.prefill_rows[-1]
        return max(self.near, min(FAR_POSITIONS, room))

    @property
    def train_sequences(self) -> tuple[int, ...]:
        """Sequences of the microbatches: one, and as many as are enough."""
        if not self.sequence_length:
            return ()
        return tuple(dict.fromkeys((1, -(-ENOUGH_TRAIN_ROWS // self.sequence_length))))

    @property
    def train_rows(self) -> tuple[int, ...]:
        """Rows of the microbatches."""
        return tuple(self.sequence_length * each for each in self.train_sequences)

    @property
    def capacity(self) -> int:
        """Positions that the largest call needs."""
        return max(self.far, self.near) + self.prefill_rows[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Seconds of a model's items; layer i is of kind `kinds[i]`, an index into `layers`."""

    kinds: tuple[int, ...] = ()
    layers: tuple[ItemSpeed, ...] = ()
    embedding: ItemSpeed
    head: ItemSpeed

    def __post_init__(self) -> None:
        """Raises ValueError where a layer is of no kind that was measured."""
        if not all(0 <= kind < len(self.layers) for kind in self.kinds):
            raise ValueError("a layer is of a kind that was not measured")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a device's worker measured; see `DeviceSpeed` for codecs and overhead."""

    items: Items
    codecs: dict[str, CodecSpeed] = field(default_factory=dict)
    overhead_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for seconds that cannot be."""
        check_seconds(self.overhead_s)

    @property
    def speed(self) -> DeviceSpeed:
        """The same, item by item."""
        items = self.items
        return DeviceSpeed(
            items=expand(items.kinds, items.layers, embedding=items.embedding, head=items.head),
            codecs=self.codecs,
            overhead_s=self.overhead_s,
        )
