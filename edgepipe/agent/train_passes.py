"""The forward and the backward of a microbatch on a stage: what is computed, and what is sent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgepipe.agent.train_frames import Outbox
from edgepipe.agent.train_tally import Tally
from edgepipe.core.frame import Direction, Header, JobId
from edgepipe.core.order import Order, Work
from edgepipe.engine.training import Backwarded, Forwarded, Targets, TrainingEngine
from edgepipe.errors import WireError

Rows = Callable[[], torch.Tensor]
Plan = tuple[Callable[[], Any], Callable[[Any], None]]
"""What to compute on the compute thread, and what to do with the result on the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """A microbatch's tokens and targets, int32 [rows], each where the stage needs it."""

    tokens: NDArray[np.int32] | None = None
    targets: NDArray[np.int32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Of one stage; `down` and `up` are where activations and gradients go, None at the ends."""

    job: JobId
    epoch: int
    engine: TrainingEngine
    device: torch.device
    down: Outbox | None
    up: Outbox | None

    def forward(self, work: Work, rows: Rows | None, ids: Ids, tally: Tally) -> Plan:
        """From `rows` of the stage before, or from tokens; on the last stage with its targets."""
        order, microbatch = work.order, work.microbatch

        def compute() -> Forwarded:
            inputs = rows() if rows is not None else self._tensor(ids.tokens)
            _check(inputs, microbatch.num_rows)
            targets = None
            if ids.targets is not None:
                targets = Targets(ids=self._tensor(ids.targets), weight=order.loss_weight)
            return self.engine.forward(microbatch, inputs, purpose=order.purpose, targets=targets)

        def done(result: Forwarded) -> None:
            tally.note(result.broken)
            if result.loss_sum is not None:
                tally.lost(microbatch.index, result.loss_sum)
            if self.down is not None:
                assert result.hidden is not None
                self.down.put(self._header(order, work, Direction.FORWARD), result.hidden)

        return compute, done

    def backward(self, work: Work, gradient: Rows | None, tally: Tally) -> Plan:
        """From the gradient of the stage after; on the last stage from its loss."""
        order, microbatch = work.order, work.microbatch

        def compute() -> Backwarded:
            rows = None if gradient is None else gradient()
            if rows is not None:
                _check(rows, microbatch.num_rows)
            return self.engine.backward(microbatch.index, rows)

        def done(result: Backwarded) -> None:
            tally.note(result.broken)
            if self.up is not None:
                assert result.gradient is not None
                self.up.put(self._header(order, work, Direction.BACKWARD), result.gradient)

        return compute, done

    def _tensor(self, ids: NDArray[np.int32] | None) -> torch.Tensor:
        assert ids is not None
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    def _header(self, order: Order, work: Work, direction: Direction) -> Header:
        forward = direction is Direction.FORWARD
        return Header(
            job=self.job,
            epoch=self.epoch,
            step=order.number,
            group=work.microbatch.index,
            direction=direction,
            codec=order.codec_forward if forward else order.codec_backward,
        )


def _check(rows: torch.Tensor, num_rows: int) -> None:
    if rows.shape[0] != num_rows:
        raise WireError(f"a frame of {rows.shape[0]} rows came for {num_rows} tokens")
