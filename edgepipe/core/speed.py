"""How fast a device runs each item of a model, and a link carries frames: measured or stated.

decode   one row of each of so many sequences, as a group of them goes round the ring
prefill  so many rows of one sequence
train    a microbatch of so many rows, forward and backward

A row that sees other positions takes `attention_s` more for each of them when it is decoded, and
`prefill_attention_s` as one of many of a prompt: the curves are of rows that see none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from edgepipe.core.frame import Codec

RUNTIME_S = 0.2e-3
"""What a frame takes on a stage beside the engine, its codec and the link: two hand-offs between
threads, headers, checks. Measured over a ring of stages that take no time (docs/LOG.md)."""


def check_seconds(*seconds: float, what: str = "seconds") -> None:
    """Raise ValueError unless all of them are numbers from 0 on."""
    if not all(0 <= each < math.inf for each in seconds):
        raise ValueError(f"{what} are numbers from 0 on")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Seconds by rows: linear between its points, before the first as it, then in its proportion.

    `rows` rise, and each has its `seconds`. A curve without points is one of nothing: 0.
    """

    rows: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for points that make no curve."""
        if len(self.rows) != len(self.seconds):
            raise ValueError("a curve has as many rows as seconds")
        if any(after <= before for before, after in pairwise((0, *self.rows))):
            raise ValueError("the rows of a curve rise, from 1 on")
        check_seconds(*self.seconds, what="the seconds of a curve")

    @classmethod
    def flat(cls, seconds: float, rows: int = 1) -> Curve:
        """As long for up to `rows` rows, then in their proportion."""
        return cls(rows=(rows,), seconds=(seconds,))

    def at(self, rows: float) -> float:
        """Seconds of a call with so many rows."""
        if not self.rows:
            return 0.0
        if rows <= self.rows[0]:
            return self.seconds[0]
        for (low, high), (begin, end) in zip(
            pairwise(self.rows), pairwise(self.seconds), strict=True
        ):
            if rows <= high:
                return begin + (end - begin) * (rows - low) / (high - low)
        return self.seconds[-1] * rows / self.rows[-1]

    def times(self, factor: float) -> Curve:
        """The same, so many times slower."""
        return Curve(rows=self.rows, seconds=tuple(each * factor for each in self.seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSpeed:
    """One item of a model on one device, in seconds; `update_s` is its optimizer's, once a step."""

    decode: Curve = field(default_factory=Curve)
    prefill: Curve = field(default_factory=Curve)
    forward: Curve = field(default_factory=Curve)
    backward: Curve = field(default_factory=Curve)
    attention_s: float = 0.0
    prefill_attention_s: float = 0.0
    update_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for seconds that cannot be."""
        check_seconds(self.attention_s, self.prefill_attention_s, self.update_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecSpeed:
    """Seconds per value, and those of a call however few they are."""

    encode_s: float
    decode_s: float
    encode_call_s: float = 0.0
    decode_call_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises ValueError for seconds that cannot be."""
        check_seconds(self.encode_s, self.decode_s, self.encode_call_s, self.decode_call_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSpeed:
    """A model's items on one device: embedding, layers, head, in this order.

    `codecs` are by a codec's name; one that it lacks takes no time. `overhead_s` is what the
    runtime takes for every frame besides. They are of the engine of that name.
    """

    items: tuple[ItemSpeed, ...]
    codecs: dict[str, CodecSpeed] = field(default_factory=dict)
    overhead_s: float = 0.0
    engine: str = "torch"

    def learning(self, share: float) -> DeviceSpeed:
        """With a head that trains on so great a share of its rows."""
        *others, head = self.items
        trained = replace(
            head, forward=head.forward.times(share), backward=head.backward.times(share)
        )
        return replace(self, items=(*others, trained))

    def codec_s(self, codec: Codec, num_values: int) -> tuple[float, float]:
        """Seconds to encode and to decode so many values."""
        speed = self.codecs.get(codec)
        if speed is None:
            return 0.0, 0.0
        return (
            speed.encode_call_s + speed.encode_s * num_values,
            speed.decode_call_s + speed.decode_s * num_values,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What a link carries from one node to another, one way; within a node where they are one."""

    sender: str
    receiver: str
    bytes_per_s: float
    latency_s: float


def expand(
    kinds: Sequence[int], layers: Sequence[ItemSpeed], *, embedding: ItemSpeed, head: ItemSpeed
) -> tuple[ItemSpeed, ...]:
    """The items of a model whose layer i is of kind `kinds[i]`, an index into `layers`."""
    return (embedding, *(layers[kind] for kind in kinds), head)
