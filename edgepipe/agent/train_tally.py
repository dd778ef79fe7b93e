"""What one order has come to on a stage, as it is computed."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgepipe.core.order import Work
from edgepipe.core.schedule import Kind
from edgepipe.core.training import Broken, StageReady


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts from one `ready` to the next."""

    busy_s: float = 0.0
    forward_s: float = 0.0
    backward_s: float = 0.0
    broken: Broken | None = None
    _loss_sums: dict[int, float] = field(default_factory=dict)

    def took(self, work: Work, seconds: float) -> None:
        """A piece of work kept the compute thread busy for so long."""
        self.busy_s += seconds
        if work.action is not None and work.action.kind is Kind.FORWARD:
            self.forward_s += seconds
        elif work.action is not None:
            self.backward_s += seconds

    def lost(self, microbatch: int, loss_sum: float) -> None:
        """A microbatch's loss, on the last stage."""
        self._loss_sums[microbatch] = loss_sum

    def note(self, broken: Broken | None) -> None:
        """Of values that are not finite the first counts."""
        if self.broken is None:
            self.broken = broken

    def ready(
        self,
        order: int,
        sum_of_squares: float,
        dot: float,
        *,
        sent_bytes: int,
        returned_bytes: int,
        inflight: int,
    ) -> StageReady:
        """The report of the order."""
        return StageReady(
            order=order,
            sum_of_squares=sum_of_squares,
            loss_sums=tuple(self._loss_sums[index] for index in sorted(self._loss_sums)),
            broken=self.broken,
            busy_s=self.busy_s,
            forward_s=self.forward_s,
            backward_s=self.backward_s,
            sent_bytes=sent_bytes,
            returned_bytes=returned_bytes,
            inflight=inflight,
            dot=dot,
        )
