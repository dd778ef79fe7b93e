"""Curves of seconds by rows, and what a codec takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.frame import Codec
from edgepipe.core.speed import CodecSpeed, Curve, DeviceSpeed, ItemSpeed, expand

CURVE = Curve(rows=(1, 8, 32), seconds=(2.0, 3.0, 9.0))


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        pytest.param(0, 2.0, id="before the first point as it"),
        pytest.param(1, 2.0, id="the first point"),
        pytest.param(4.5, 2.5, id="half way"),
        pytest.param(8, 3.0, id="a point between"),
        pytest.param(20, 6.0, id="half way of the second piece"),
        pytest.param(32, 9.0, id="the last point"),
        pytest.param(64, 18.0, id="beyond it in proportion"),
    ],
)
def test_a_curve_is_linear_between_its_points(rows: float, seconds: float) -> None:
    assert CURVE.at(rows) == pytest.approx(seconds)


def test_a_curve_without_points_is_one_of_nothing() -> None:
    assert Curve().at(7) == 0.0


def test_a_flat_curve_is_flat_up_to_its_rows() -> None:
    flat = Curve.flat(3.0, rows=10)
    assert [flat.at(rows) for rows in (1, 10, 20)] == [3.0, 3.0, 6.0]


@given(
    points=st.dictionaries(st.integers(1, 500), st.floats(0, 10), min_size=1, max_size=6),
    factor=st.floats(0.1, 10),
    rows=st.floats(0, 1000),
)
def test_a_slower_device_takes_so_many_times_as_long(
    points: dict[int, float], factor: float, rows: float
) -> None:
    at = sorted(points)
    curve = Curve(rows=tuple(at), seconds=tuple(points[each] for each in at))
    assert curve.times(factor).at(rows) == pytest.approx(factor * curve.at(rows))


@given(st.lists(st.floats(0, 10), min_size=2, max_size=5), st.floats(0, 60), st.floats(0, 60))
def test_more_rows_never_take_less_where_the_points_rise(
    seconds: list[float], one: float, other: float
) -> None:
    rows = tuple(10 * (at + 1) for at in range(len(seconds)))
    curve = Curve(rows=rows, seconds=tuple(sorted(seconds)))
    fewer, more = sorted((one, other))
    assert curve.at(fewer) <= curve.at(more) * (1 + 1e-9) + 1e-300


@pytest.mark.parametrize(
    ("rows", "seconds"),
    [
        ((1,), ()),
        ((2, 2), (1.0, 1.0)),
        ((0,), (1.0,)),
        ((1,), (-1.0,)),
        ((1,), (float("nan"),)),
        ((1,), (float("inf"),)),
    ],
)
def test_what_makes_no_curve(rows: tuple[int, ...], seconds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="curve"):
        Curve(rows=rows, seconds=seconds)


def test_a_codec_takes_time_by_value_and_by_call() -> None:
    speed = CodecSpeed(encode_s=2.0, decode_s=1.0, encode_call_s=10.0, decode_call_s=20.0)
    device = DeviceSpeed(items=(), codecs={Codec.INT8: speed})
    assert device.codec_s(Codec.INT8, 5) == (20.0, 25.0)
    assert device.codec_s(Codec.BF16, 5) == (0.0, 0.0)


def test_layers_of_one_kind_are_as_fast_as_each_other() -> None:
    embedding, dense, mixture, head = (ItemSpeed(update_s=float(at)) for at in range(4))
    expanded = expand([0, 1, 0], [dense, mixture], embedding=embedding, head=head)
    assert expanded == (embedding, dense, mixture, dense, head)
