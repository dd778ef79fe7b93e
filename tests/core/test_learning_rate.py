from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.core.learning_rate import Decay, LearningRate


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        (Decay.LINEAR, [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0]),
        (Decay.COSINE, [0.25, 0.5, 0.75, 1, 0.8536, 0.5, 0.1464, 0]),
        (Decay.CONSTANT, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    ],
)
def test_it_warms_up_and_decays(decay: Decay, rates: list[float]) -> None:
    rate = LearningRate(peak=1.0, num_steps=8, warmup_steps=4, decay=decay)
    assert [rate.at(step) for step in range(1, 9)] == pytest.approx(rates, abs=1e-4)


def test_without_a_warm_up_the_first_step_has_the_peak() -> None:
    rate = LearningRate(peak=3e-4, num_steps=10)
    assert rate.at(1) == 3e-4


@pytest.mark.parametrize("warmup_steps", [0, 1])
@pytest.mark.parametrize("decay", Decay)
def test_a_single_step_learns(decay: Decay, warmup_steps: int) -> None:
    rate = LearningRate(peak=3e-4, num_steps=1, warmup_steps=warmup_steps, decay=decay)
    assert rate.at(1) == 3e-4


@given(data=st.data(), num_steps=st.integers(1, 300), decay=st.sampled_from(Decay))
def test_it_rises_to_the_peak_and_never_again(
    data: st.DataObject, num_steps: int, decay: Decay
) -> None:
    warmup_steps = data.draw(st.integers(0, num_steps))
    rate = LearningRate(peak=2.0, num_steps=num_steps, warmup_steps=warmup_steps, decay=decay)
    rates = [rate.at(step) for step in range(1, num_steps + 1)]
    top = max(warmup_steps, 1)
    assert rates[:top] == sorted(set(rates[:top]))
    assert rates[top - 1] == 2.0
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 <= each <= 2.0 for each in rates)
    if decay is not Decay.CONSTANT and num_steps > top:
        assert rates[-1] == pytest.approx(0, abs=1e-12)
