"""How fast a device on paper runs a model: seconds that a person stated, item by item.

decode    one row
prefill   one prefill chunk
forward   one microbatch
backward  one microbatch

Between one row and a chunk a call's time is taken to be linear; a chunk's time and a microbatch's
are in proportion to their rows from there on, a microbatch's below it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed

MICROBATCH_ROWS = 512
"""Rows of the microbatch that stated seconds are of: one sequence of 512 tokens."""


class Pass(StrEnum):
    """What a call of an item is for."""

    DECODE = "decode"
    PREFILL = "prefill"
    FORWARD = "forward"
    BACKWARD = "backward"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatedSeconds:
    """Seconds of one item, per decoded row, prefill chunk and microbatch; None is not stated."""

    decode_s: float | None = None
    prefill_s: float | None = None
    forward_s: float | None = None
    backward_s: float | None = None


def stated_speed(
    items: tuple[StatedSeconds, ...],
    *,
    prefill_chunk: int,
    microbatch_rows: int = MICROBATCH_ROWS,
) -> DeviceSpeed:
    """Embedding, layers and head in this order; what is not stated has a curve of nothing."""
    return DeviceSpeed(items=tuple(_speed(item, prefill_chunk, microbatch_rows) for item in items))


def _speed(item: StatedSeconds, prefill_chunk: int, microbatch_rows: int) -> ItemSpeed:
    return ItemSpeed(
        decode=_inference(item, item.decode_s, 1, prefill_chunk),
        prefill=_inference(item, item.prefill_s, prefill_chunk, prefill_chunk),
        forward=_in_proportion(item.forward_s, microbatch_rows),
        backward=_in_proportion(item.backward_s, microbatch_rows),
    )


def _inference(item: StatedSeconds, seconds: float | None, rows: int, prefill_chunk: int) -> Curve:
    """Through one row and a chunk where both are stated, else through the one."""
    if seconds is None:
        return Curve()
    if item.decode_s is None or item.prefill_s is None or prefill_chunk == 1:
        return Curve.flat(seconds, rows)
    return Curve(rows=(1, prefill_chunk), seconds=(item.decode_s, item.prefill_s))


def _in_proportion(seconds: float | None, rows: int) -> Curve:
    return Curve() if seconds is None else Curve.flat(seconds / rows)
