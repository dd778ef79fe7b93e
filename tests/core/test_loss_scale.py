from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepipe.core.loss_scale import GROWTH_STEPS, MIN_SCALE, LossScale
from edgepipe.core.record import from_json, to_json


def test_it_halves_on_a_step_that_is_not_finite() -> None:
    assert LossScale().next(finite=False) == LossScale(scale=2.0**15)


def test_it_doubles_after_two_thousand_good_steps() -> None:
    scale = LossScale(scale=1024.0)
    for _ in range(GROWTH_STEPS - 1):
        scale = scale.next(finite=True)
        assert scale.scale == 1024.0
    assert scale.next(finite=True) == LossScale(scale=2048.0)


def test_a_bad_step_begins_the_count_anew() -> None:
    scale = LossScale(good_steps=GROWTH_STEPS - 1).next(finite=False)
    assert scale.good_steps == 0


def test_it_never_falls_below_the_least() -> None:
    scale = LossScale()
    for _ in range(40):
        scale = scale.next(finite=False)
    assert scale == LossScale(scale=MIN_SCALE)
    assert scale.is_least


@settings(deadline=None)  # torch's first call
@given(good_steps=st.integers(0, GROWTH_STEPS - 1), steps=st.lists(st.booleans(), max_size=15))
def test_it_moves_as_torchs_grad_scaler_does(good_steps: int, steps: list[bool]) -> None:
    ours = LossScale(good_steps=good_steps)
    scale = torch.tensor([ours.scale])
    counted = torch.tensor([good_steps], dtype=torch.int32)
    for finite in steps:
        found_inf = torch.tensor([0.0 if finite else 1.0])
        torch._amp_update_scale_(scale, counted, found_inf, 2.0, 0.5, GROWTH_STEPS)
        ours = ours.next(finite=finite)
        assert (ours.scale, ours.good_steps) == (scale.item(), counted.item())


@given(scale=st.integers(0, 24), good_steps=st.integers(0, GROWTH_STEPS - 1))
def test_a_checkpoint_can_hold_it(scale: int, good_steps: int) -> None:
    held = LossScale(scale=2.0**scale, good_steps=good_steps)
    assert from_json(LossScale, to_json(held)) == held
