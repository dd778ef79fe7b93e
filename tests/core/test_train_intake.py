"""Which frames a stage in training takes, and what it makes of them."""

from __future__ import annotations

import pytest

from edgepipe.core.frame import Codec, Direction, DType, Header, JobId
from edgepipe.core.order import Input, Need
from edgepipe.core.train_intake import Exchanged, Side, TrainIntake
from edgepipe.errors import WireError

UP, DOWN, RING = Side.UPSTREAM, Side.DOWNSTREAM, Side.EXCHANGE
THERE, BACK = Direction.FORWARD, Direction.BACKWARD


def intake() -> TrainIntake:
    return TrainIntake(job=JobId("job"), epoch=2, hidden_size=8, max_rows=6, max_order_rows=12)


def header(direction: Direction = THERE, group: int = 0, **changes: object) -> Header:
    base = Header(job=JobId("job"), epoch=2, step=1, group=group, direction=direction, shape=(6, 8))
    return base._replace(**changes)


@pytest.mark.parametrize(
    ("side", "given", "expected"),
    [
        (UP, header(THERE, 3), Need(Input.ACTIVATIONS, 3)),
        (UP, header(THERE, 3, dtype=DType.BFLOAT16), Need(Input.ACTIVATIONS, 3)),
        (DOWN, header(BACK, 1, codec=Codec.INT8), Need(Input.GRADIENT, 1)),
        (RING, header(THERE, shape=(13, 8)), Need(Input.ROWS)),
        (
            RING,
            header(BACK, Exchanged.WANTED_IDS, shape=(12,), dtype=DType.INT64),
            Need(Input.WANTED_ROWS),
        ),
        (
            RING,
            header(BACK, Exchanged.GRADIENT_IDS, shape=(12,), dtype=DType.INT64),
            Need(Input.ROW_IDS),
        ),
        (RING, header(BACK, Exchanged.GRADIENT_ROWS), Need(Input.ROW_GRADIENTS)),
    ],
)
def test_a_frame_is_told_by_where_it_comes_from(side: Side, given: Header, expected: Need) -> None:
    assert intake().takes(given, side) == expected


@pytest.mark.parametrize(
    ("side", "given"),
    [
        (UP, header(BACK)),
        (DOWN, header(THERE)),
        (RING, header(BACK, 3)),
        (RING, header(THERE, 1)),
        (UP, header(job=JobId("another"))),
        (UP, header(shape=(7, 8))),
        (UP, header(shape=(0, 8))),
        (UP, header(shape=())),
        (UP, header(shape=(6, 9))),
        (UP, header(dtype=DType.INT64)),
        (UP, header(group=1 << 20)),
        (RING, header(shape=(14, 8))),
        (RING, header(codec=Codec.INT8)),
        (RING, header(dtype=DType.FLOAT16)),
        (RING, header(BACK, Exchanged.WANTED_IDS)),
    ],
)
def test_a_frame_that_cannot_be_right_is_refused(side: Side, given: Header) -> None:
    with pytest.raises(WireError):
        intake().takes(given, side)


def test_a_frame_of_an_earlier_epoch_is_dropped_and_counted() -> None:
    state = intake()
    assert state.takes(header(epoch=1), UP) is None
    assert state.dropped == 1
