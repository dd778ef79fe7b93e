"""A training engine with given times and real bytes: it computes nothing, see `emulated`."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from edgepipe.core.training import Gradients, Microbatch, Purpose, Training, Update
from edgepipe.engine.base import Loaded, Progress, StageSpec
from edgepipe.engine.emulated import DTYPES, MAX_FORWARD_S, check_size, take
from edgepipe.engine.training import Backwarded, Forwarded, Targets
from edgepipe.errors import DamagedWeights, ModelError

UNIT = "nothing"


class EmulatedTrainer:
    """Options: `forward_s` and `backward_s` per microbatch, `hidden_size`, `update_s` per step."""

    def __init__(self) -> None:
        self._spec: StageSpec | None = None
        self._rows = torch.empty(0, 0)

    def load(self, spec: StageSpec, training: Training, progress: Progress) -> Loaded:
        """Remember the sizes; there are no weights. Raises ModelError for options out of bounds."""
        del training
        for name in ("forward_s", "backward_s", "update_s"):
            seconds = spec.options.get(name)
            if not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_FORWARD_S:
                raise ModelError(
                    f"an emulated stage has a {name} of 0 to {MAX_FORWARD_S:.0f}, not {seconds}"
                )
        check_size(spec.options, "hidden_size")
        self._spec = spec
        progress(0, 0)
        return Loaded(weight_bytes=0, kv_bytes=0)

    def forward(
        self,
        microbatch: Microbatch,
        inputs: torch.Tensor,
        *,
        purpose: Purpose,
        targets: Targets | None,
    ) -> Forwarded:
        """Random rows after `forward_s`; on the last stage a loss of nothing."""
        del microbatch, purpose, targets
        self._take("forward_s")
        hidden = self._of(inputs.shape[0])
        is_last = self._spec is not None and self._spec.head
        return Forwarded(loss_sum=0.0) if is_last else Forwarded(hidden=hidden)

    def backward(self, microbatch: int, gradient: torch.Tensor | None) -> Backwarded:
        """Random rows after `backward_s`, as many as the last forward had."""
        del microbatch, gradient
        self._take("backward_s")
        first = self._spec is not None and self._spec.embedding
        return Backwarded(gradient=None if first else self._rows)

    def gradients(self) -> Gradients:
        """There are none."""
        return Gradients(sum_of_squares=0.0)

    def rehearse(self) -> float:
        """There are no gradients."""
        return 0.0

    def apply(self, update: Update) -> None:
        """Takes `update_s`."""
        del update
        self._take("update_s")

    def discard(self) -> None:
        """Nothing is held."""

    def unload(self) -> None:
        """Nothing is held."""
        self._spec = None

    def embedding_gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """It has no embedding."""
        raise AssertionError(UNIT)

    def add_embedding_gradient(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """It has no embedding."""
        raise AssertionError(ids, rows)

    def embedding_rows(self, ids: torch.Tensor) -> torch.Tensor:
        """It has no embedding."""
        raise AssertionError(ids)

    def set_embedding_rows(self, ids: torch.Tensor, rows: torch.Tensor) -> None:
        """It has no embedding."""
        raise AssertionError(ids, rows)

    def units(self) -> tuple[str, ...]:
        """It learns nothing."""
        return ()

    def export_state(self, unit: str) -> Mapping[str, torch.Tensor]:
        """It has no units."""
        raise AssertionError(unit)

    def import_state(self, unit: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """It has no units."""
        del tensors
        raise DamagedWeights(f"an emulated stage has no unit {unit}")

    def _of(self, num_rows: int) -> torch.Tensor:
        """Made anew only where the rows differ: emulating costs no time."""
        assert self._spec is not None
        if self._rows.shape[0] != num_rows:
            shape = (num_rows, self._spec.options["hidden_size"])
            self._rows = torch.rand(shape).to(DTYPES[self._spec.dtype])
        return self._rows

    def _take(self, name: str) -> None:
        assert self._spec is not None
        take(self._spec.options[name])
