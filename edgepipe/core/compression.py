"""Which codec a link takes: the one that gets a frame across soonest, its own time included.

Of codecs that are as fast the least lossy; on one machine none, unless the user named one. int4 is
never chosen: it is the user's alone, for activations, and gradients then travel as int8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgepipe.core.frame import Codec, DType
from edgepipe.core.payload import payload_bytes
from edgepipe.core.problem import Floats
from edgepipe.core.survey import Survey

LOSSY_ORDER = (Codec.NONE, Codec.BF16, Codec.INT8, Codec.INT4)
"""From the least lossy on."""

_ELIGIBLE = LOSSY_ORDER[: LOSSY_ORDER.index(Codec.INT4)]
"""What may be chosen where the user leaves the choice."""

_WORTH = 0.95
"""A lossier codec must save a twentieth of the time."""

Table = tuple[tuple[Codec, ...], ...]
"""The codec from the row's device to the column's [D, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What is encoded: so many rows of `hidden_size` values."""

    num_rows: int
    hidden_size: int
    dtype: DType

    @property
    def num_values(self) -> int:
        """Values of a frame."""
        return self.num_rows * self.hidden_size

    def encoded_bytes(self, codec: Codec) -> int:
        """Bytes of a frame."""
        return payload_bytes(codec, (self.num_rows, self.hidden_size), self.dtype)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Compression:
    """The codecs of all links one way: what each leaves of a frame and what it takes [D, D]."""

    codecs: Table
    share: Floats
    seconds: Floats


def compress(survey: Survey, rows: Rows, codec: Codec | None) -> Compression:
    """Choose for every link; `codec` is the user's word, for all of them."""
    table = tuple(
        tuple(codec or _choose(survey, rows, sender, receiver) for receiver in range(_num(survey)))
        for sender in range(_num(survey))
    )
    return compression_of(survey, rows, table)


def compression_of(survey: Survey, rows: Rows, table: Table) -> Compression:
    """What the codecs of a table leave and take."""
    whole = rows.encoded_bytes(Codec.NONE)
    places = range(_num(survey))
    return Compression(
        codecs=table,
        share=np.array([[rows.encoded_bytes(table[a][b]) / whole for b in places] for a in places]),
        seconds=np.array(
            [[_codec_s(survey, rows, table[a][b], a, b) for b in places] for a in places]
        ),
    )


def gradient_codec(codec: Codec) -> Codec:
    """How gradients travel where the user wants activations to travel as `codec`."""
    return Codec.INT8 if codec is Codec.INT4 else codec


def gradient_codecs(table: Table) -> Table:
    """The same of every link."""
    return tuple(tuple(gradient_codec(codec) for codec in row) for row in table)


def less_lossy(codec: Codec) -> tuple[Codec, ...]:
    """The codecs that lose less than this one, the least lossy first."""
    return LOSSY_ORDER[: LOSSY_ORDER.index(codec)]


def _num(survey: Survey) -> int:
    return len(survey.devices)


def _choose(survey: Survey, rows: Rows, sender: int, receiver: int) -> Codec:
    here, there = survey.devices[sender], survey.devices[receiver]
    if here.machine == there.machine:
        return Codec.NONE
    best = Codec.NONE
    for codec in _ELIGIBLE[1:]:
        if _hop_s(survey, rows, codec, sender, receiver) < _WORTH * _hop_s(
            survey, rows, best, sender, receiver
        ):
            best = codec
    return best


def _hop_s(survey: Survey, rows: Rows, codec: Codec, sender: int, receiver: int) -> float:
    link = survey.link(survey.devices[sender], survey.devices[receiver])
    sending = rows.encoded_bytes(codec) / link.bytes_per_s
    return link.latency_s + sending + _codec_s(survey, rows, codec, sender, receiver)


def _codec_s(survey: Survey, rows: Rows, codec: Codec, sender: int, receiver: int) -> float:
    encode_s, _ = survey.speeds[sender].codec_s(codec, rows.num_values)
    _, decode_s = survey.speeds[receiver].codec_s(codec, rows.num_values)
    return encode_s + decode_s
