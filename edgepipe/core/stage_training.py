"""One stage's life in training: orders and inputs come in, what to do next comes out.

A stage runs its orders one after another, and each order's work in order. Inputs arrive when they
like, also for an order that the stage has not been told of yet: another stage was told sooner.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edgepipe.core.order import Need, Order, Seat, Task, Work
from edgepipe.errors import WireError

MAX_AHEAD = 4
"""Orders that a stage may be told of, or receive inputs for, beyond the one that it is at."""


@dataclass(slots=True, kw_only=True)
class StageTraining:
    """What a stage knows: never a tensor, never a socket.

    While `held`, no order is concluded: what was trained is being read. `inflight` are the
    microbatches whose backward has not come, `most_inflight` the most of the current order.
    """

    seat: Seat
    held: bool = False
    inflight: int = 0
    most_inflight: int = 0
    _done: int = 0
    _orders: deque[Order] = field(default_factory=deque)
    _work: deque[Work] = field(default_factory=deque)
    _wanted: dict[int, frozenset[Need]] = field(default_factory=dict)
    _there: dict[int, set[Need]] = field(default_factory=dict)

    def give(self, order: Order) -> None:
        """Take an order in. Raises WireError where it cannot be carried out."""
        self.seat.check(order)
        last = self._orders[-1].number if self._orders else self._done
        if order.number != last + 1:
            raise WireError(f"order {order.number} came where {last + 1} was due")
        if len(self._orders) > MAX_AHEAD:
            raise WireError(f"more than {MAX_AHEAD} orders came ahead of the work")
        self._orders.append(order)
        self._wanted[order.number] = self.seat.needs(order)
        for need in self._there.get(order.number, ()):
            self._check(order, need)
        if len(self._orders) == 1:
            self._begin()

    def arrive(self, number: int, need: Need) -> None:
        """An input of order `number` is there. Raises WireError for one that nobody waits for."""
        if not self._done < number <= self._done + MAX_AHEAD + 1:
            raise WireError(f"{need.kind} of order {number} came, the stage is at {self._done + 1}")
        there = self._there.setdefault(number, set())
        if need in there:
            raise WireError(f"{need.kind} of microbatch {need.microbatch} came twice")
        order = self.order(number)
        if order is not None:
            self._check(order, need)
        there.add(need)

    def order(self, number: int) -> Order | None:
        """The order of that number, if the stage was told of it and it is not done."""
        return next((order for order in self._orders if order.number == number), None)

    def peek(self, count: int) -> list[Work]:
        """What comes next of the current order, at most so much of it."""
        return list(self._work)[:count]

    def next(self) -> Work | None:
        """The next piece of work if all that it needs is there; it is taken as begun."""
        if not self._work:
            return None
        work = self._work[0]
        there = self._there.get(work.order.number, set())
        if not there.issuperset(work.needs) or (self.held and work.task is Task.CONCLUDE):
            return None
        self._work.popleft()
        self._count(work)
        return work

    def finish(self, work: Work) -> None:
        """A piece of work is done; after an order's last one the next order begins."""
        if self._work or work.order is not self._orders[0]:
            return
        self._orders.popleft()
        self._there.pop(work.order.number, None)
        del self._wanted[work.order.number]
        self._done = work.order.number
        self._begin()

    def _begin(self) -> None:
        self.most_inflight = 0
        if self._orders:
            self._work = deque(self.seat.work(self._orders[0]))

    def _count(self, work: Work) -> None:
        if work.task is not Task.ACT or not work.order.has_backwards:
            return
        assert work.action is not None
        self.inflight += 1 if work.action.kind == "F" else -1
        self.most_inflight = max(self.most_inflight, self.inflight)

    def _check(self, order: Order, need: Need) -> None:
        if need not in self._wanted[order.number]:
            raise WireError(
                f"{need.kind} of microbatch {need.microbatch} came to stage {self.seat.stage}, "
                f"which has no use for it in order {order.number}"
            )
