"""How far one training step is from another."""

from __future__ import annotations

import math

import pytest
import torch

from edgepipe.coordinator.one_step import OneStep, step_errors, trial_of
from edgepipe.coordinator.trial import without_dropout
from edgepipe.errors import UsageError

WEIGHT = torch.tensor([3.0, 4.0])
BIAS = torch.tensor([0.0, 1e-9])
"""Nothing but rounding."""


def step(loss: float = 2.0, **gradients: torch.Tensor) -> OneStep:
    return OneStep(loss=loss, gradients={"weight": WEIGHT, "bias": BIAS, **gradients})


def test_a_step_is_not_far_from_itself() -> None:
    found = step_errors(step(), step())
    assert (found.loss, found.gradient, found.worst_gradient) == (0.0, 0.0, 0.0)


def test_errors_are_relative_to_what_is_right() -> None:
    found = step_errors(step(loss=2.1, weight=torch.tensor([3.0, 4.5])), step())
    assert found.loss == pytest.approx(0.05)
    assert found.gradient == pytest.approx(0.1)
    assert (found.worst_gradient, found.worst_tensor) == (pytest.approx(0.1), "weight")


def test_a_gradient_of_rounding_alone_is_held_against_the_others() -> None:
    found = step_errors(step(bias=torch.tensor([1e-6, 0.0])), step())
    assert found.worst_gradient < 1e-3
    found = step_errors(step(bias=torch.tensor([0.1, 0.0])), step())
    assert (found.worst_gradient > 1, found.worst_tensor) == (True, "bias")


def test_a_tensor_that_is_missing_is_all_wrong() -> None:
    lacking = OneStep(loss=2.0, gradients={"bias": BIAS})
    found = step_errors(lacking, step())
    assert (found.gradient, found.worst_gradient) == (pytest.approx(1.0), pytest.approx(1.0))
    assert step_errors(step(), lacking).gradient > 1


def test_what_is_no_number_is_the_worst() -> None:
    found = step_errors(step(weight=torch.tensor([3.0, math.nan])), step())
    assert math.isnan(found.gradient)
    assert found.worst_tensor == "weight"


@pytest.mark.parametrize("count", [2, 3, 19])
def test_a_trial_has_several_microbatches_of_unequal_sequences(count: int) -> None:
    trial = trial_of(list(range(count)))
    assert [len(part) for part in trial.microbatches] == [2, 2, 1]
    assert all(2 <= len(each) <= count for each in trial.examples)
    assert trial.num_targets == sum(map(len, trial.examples)) - len(trial.examples)
    assert sum(trial.rows) >= sum(map(len, trial.examples))
    if count > 3:
        assert all(len({len(each) for each in part}) > 1 for part in trial.microbatches[:2])


def test_a_word_makes_no_trial() -> None:
    with pytest.raises(UsageError, match="two tokens"):
        trial_of([7])


def test_nothing_is_dropped_at_random() -> None:
    config = {"attention_dropout": 0.1, "drop_path": [1], "hidden_size": 8, "text": {"p_drop": 0.2}}
    assert without_dropout(config) == {
        "attention_dropout": 0.0,
        "drop_path": [1],
        "hidden_size": 8,
        "text": {"p_drop": 0.0},
    }
