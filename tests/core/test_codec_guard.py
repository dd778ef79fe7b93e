"""When codecs step up, and what their gradients are compared by."""

from __future__ import annotations

import math

import pytest

from edgepipe.core.codec_guard import Guard, cosine, stepped_up
from edgepipe.core.frame import Codec


def test_a_codec_steps_up_to_the_next_less_lossy_one() -> None:
    codec, seen = Codec.INT4, [Codec.INT4]
    while codec is not Codec.NONE:
        codec = stepped_up(codec)
        seen.append(codec)
    assert seen == [Codec.INT4, Codec.INT8, Codec.BF16, Codec.NONE]
    assert stepped_up(Codec.NONE) is Codec.NONE


def test_codecs_are_checked_every_so_many_steps() -> None:
    guard = Guard(every=20, threshold=0.01)
    assert [step for step in range(1, 61) if guard.is_due(step)] == [20, 40, 60]
    assert not any(Guard(every=0, threshold=0.01).is_due(step) for step in range(1, 100))


@pytest.mark.parametrize(
    ("coded", "plain", "over"),
    [
        (2.0, 2.0, False),
        (2.01, 2.0, False),
        (2.1, 2.0, True),
        (1.9, 2.0, True),
        (math.nan, 2.0, True),
    ],
)
def test_the_threshold_is_of_the_relative_difference(
    coded: float, plain: float, *, over: bool
) -> None:
    guard = Guard(every=1, threshold=0.01)
    assert guard.is_over(guard.error(coded, plain)) is over


def test_the_cosine_of_two_gradients() -> None:
    assert cosine(6.0, 4.0, 9.0) == 1.0
    assert cosine(0.0, 4.0, 0.0) == 0.0
