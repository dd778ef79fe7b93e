"""What one step of training comes to, and how far one is from another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from edgepipe.core.dataset import Example, example, microbatches
from edgepipe.errors import UsageError

NEGLIGIBLE = 1e-3
"""Of the gradients' root mean square: a tensor below that (a bias before a softmax has a gradient
of nothing but rounding) is measured by it."""

MIN_TOKENS = 2
_SHARES = (1.0, 0.5, 0.8, 0.3, 0.9)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStep:
    """The loss in nats per target, and the gradients by the tensors' names in the whole model."""

    loss: float
    gradients: Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepErrors:
    """Relative errors: of the loss, of all gradients together, and of the worst tensor's.

    A gradient's is the norm of the difference over that of the gradient.
    """

    loss: float
    gradient: float
    worst_gradient: float
    worst_tensor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """The microbatches of a step that is taken to be compared."""

    microbatches: tuple[tuple[Example, ...], ...]

    @property
    def examples(self) -> tuple[Example, ...]:
        """All of its sequences."""
        return tuple(each for part in self.microbatches for each in part)

    @property
    def num_targets(self) -> int:
        """Tokens that are predicted."""
        return sum(each.num_targets for each in self.examples)

    @property
    def rows(self) -> tuple[int, ...]:
        """Tokens of each microbatch, padding included."""
        return tuple(len(part) * max(map(len, part)) for part in self.microbatches)


def trial_of(token_ids: Sequence[int]) -> Trial:
    """Five parts of a text, of unequal length, in three microbatches.

    Raises UsageError for a text of less than two tokens.
    """
    count = len(token_ids)
    if count < MIN_TOKENS:
        raise UsageError("A loss needs two tokens of text at least: give a longer --prompt.")
    sizes = [max(MIN_TOKENS, math.ceil(count * share)) for share in _SHARES]
    parts = [example(token_ids[count - size :]) for size in sizes]
    return Trial(microbatches=microbatches(parts, 3))


def step_errors(found: OneStep, expected: OneStep) -> StepErrors:
    """How far a step is from the one that is right; a tensor that one of them lacks counts as 0."""
    names = sorted(found.gradients.keys() | expected.gradients.keys())
    off = {name: _off(found.gradients.get(name), expected.gradients.get(name)) for name in names}
    right = {name: _squares(expected.gradients.get(name)) for name in names}
    count = sum(each.numel() for each in expected.gradients.values())
    least = NEGLIGIBLE**2 * sum(right.values()) / max(1, count)
    errors = {
        name: _ratio(off[name], max(right[name], least * _size(name, found, expected)))
        for name in names
    }
    worst = max(errors, key=lambda name: (math.isnan(errors[name]), errors[name]))
    return StepErrors(
        loss=abs(found.loss - expected.loss) / max(abs(expected.loss), 1e-12),
        gradient=_ratio(sum(off.values()), sum(right.values())),
        worst_gradient=errors[worst],
        worst_tensor=worst,
    )


def _off(found: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    """The squared norm of the difference."""
    if found is None or expected is None:
        return _squares(expected if found is None else found)
    return _squares(found - expected)


def _squares(tensor: torch.Tensor | None) -> float:
    return 0.0 if tensor is None else float(torch.linalg.vector_norm(tensor.double())) ** 2


def _size(name: str, found: OneStep, expected: OneStep) -> int:
    tensor = expected.gradients.get(name, found.gradients.get(name))
    assert tensor is not None
    return tensor.numel()


def _ratio(squares: float, of: float) -> float:
    """Of two squared norms, that of the norms."""
    if math.isnan(squares) or math.isnan(of):
        return math.nan
    return math.sqrt(squares / of) if of > 0 else math.inf if squares > 0 else 0.0
