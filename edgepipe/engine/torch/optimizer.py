"""AdamW (Loshchilov and Hutter 2019) over a stage's trained tensors, and its moments."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgepipe.core.training import AdamW, Update
from edgepipe.errors import ModelError

STEP = "step"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""As torch calls them, each of its tensor's shape."""
_EIGHT_BIT_MOMENTS = ("state1", "state2")
"""As bitsandbytes calls them; there are tables and scales beside them."""
_FUSED_DEVICES = ("cpu", "cuda", "mps")


class StageOptimizer:
    """AdamW over `parameters`, float32. Tensors of one dimension do not decay."""

    def __init__(
        self, parameters: Sequence[torch.nn.Parameter], settings: AdamW, device: torch.device
    ) -> None:
        self._parameters = parameters
        self._moments = _EIGHT_BIT_MOMENTS if settings.eight_bit else MOMENTS
        self._optimizer: torch.optim.Optimizer | None = None
        self._aside: list[torch.Tensor | None] | None = None
        if settings.eight_bit:
            _check_eight_bit(device)
        if not parameters:
            return
        if settings.eight_bit:
            self._optimizer = _eight_bit(parameters, settings)
            return
        self._optimizer = _full(parameters, settings, device)
        for parameter in parameters:
            self._optimizer.state[parameter] = {
                STEP: torch.zeros((), device=parameter.device),
                **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
            }

    def sum_of_squares(self) -> float:
        """Of all gradients."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) ** 2 if gradients else 0.0

    def rehearse(self) -> float:
        """See TrainingEngine.rehearse."""
        now = [parameter.grad for parameter in self._parameters]
        aside, self._aside = self._aside, None
        self.discard()
        if aside is None:
            self._aside = now
            return 0.0
        both = ((a, b) for a, b in zip(aside, now, strict=True) if a is not None and b is not None)
        return sum(float(torch.dot(a.flatten(), b.flatten())) for a, b in both)

    def apply(self, update: Update) -> None:
        """Scale the gradients, step, forget the gradients."""
        if self._optimizer is None:
            return
        for parameter in self._parameters:
            if update.scale != 1 and parameter.grad is not None:
                parameter.grad.mul_(update.scale)
        for group in self._optimizer.param_groups:
            group["lr"] = update.learning_rate
        self._optimizer.step()
        self.discard()

    def discard(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    def num_steps(self, parameter: torch.nn.Parameter) -> int:
        """How often it was stepped."""
        return int(self._state(parameter).get(STEP, 0))

    def moments(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        """A tensor's moments, by the names that the optimizer has for them."""
        return {
            name: value
            for name, value in self._state(parameter).items()
            if name != STEP and isinstance(value, torch.Tensor)
        }

    def takes(self, parameter: torch.nn.Parameter, moments: Mapping[str, torch.Tensor]) -> bool:
        """Whether `restore` would: they are of this optimizer and of this shape."""
        own = self.moments(parameter)
        known = [name for name in moments if name in own]
        return moments.keys() >= set(self._moments) and all(
            moments[name].shape == own[name].shape for name in known
        )

    def restore(
        self, parameter: torch.nn.Parameter, moments: Mapping[str, torch.Tensor], num_steps: int
    ) -> None:
        """Take what `moments` and `num_steps` gave."""
        state, device = self._state(parameter), parameter.device
        step = state.get(STEP, 0)
        state[STEP] = step.fill_(num_steps) if isinstance(step, torch.Tensor) else num_steps
        for name, value in moments.items():
            if name in state:
                state[name].copy_(value)
            else:
                state[name] = value.to(device, copy=True)

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        assert self._optimizer is not None, "a tensor that is trained"
        state: dict[str, Any] = self._optimizer.state[parameter]
        return state


def _full(
    parameters: Sequence[torch.nn.Parameter], settings: AdamW, device: torch.device
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        _groups(parameters, settings),
        betas=settings.betas,
        eps=settings.eps,
        fused=device.type in _FUSED_DEVICES,
    )


def _groups(parameters: Sequence[torch.nn.Parameter], settings: AdamW) -> list[dict[str, Any]]:
    matrices = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim <= 1]
    groups = [(matrices, settings.weight_decay), (others, 0.0)]
    return [{"params": members, "weight_decay": decay} for members, decay in groups if members]


def _check_eight_bit(device: torch.device) -> None:
    if device.type != "cuda":
        raise ModelError(
            f"The 8-bit optimizer runs on CUDA alone, and a stage is on {device.type}: "
            "set eight_bit to false, or leave that device out."
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            "The 8-bit optimizer needs bitsandbytes: run `pip install bitsandbytes` on every agent."
        )


def _eight_bit(parameters: Sequence[torch.nn.Parameter], settings: AdamW) -> torch.optim.Optimizer:
    library = importlib.import_module("bitsandbytes.optim")
    optimizer: torch.optim.Optimizer = library.AdamW8bit(
        _groups(parameters, settings), betas=settings.betas, eps=settings.eps
    )
    return optimizer
