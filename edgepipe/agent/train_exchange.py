"""A tied embedding on two stages: the first asks for rows, and gives their gradients back.

first   ── ids of the tokens of an order ──▶   last, which owns the embedding
        ◀──────────── their rows ───────────
        ── ids, and gradients of their rows ─▶
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from edgepipe.agent.train_frames import Outbox
from edgepipe.agent.train_passes import Plan, Rows
from edgepipe.core.frame import Direction, Header, JobId
from edgepipe.core.order import Input, Task, Work
from edgepipe.core.train_intake import Exchanged
from edgepipe.engine.training import TrainingEngine
from edgepipe.errors import WireError


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One end of it."""

    job: JobId
    epoch: int
    engine: TrainingEngine
    vocab_size: int
    outbox: Outbox
    _wanted: dict[int, torch.Tensor] = field(default_factory=dict)

    def want(self, number: int, ids: torch.Tensor) -> None:
        """Ask for the rows of an order's tokens, int64 [n]."""
        self._wanted[number] = ids
        self.outbox.put(self._up(number, Exchanged.WANTED_IDS), ids)

    def plan(self, work: Work, rows: Mapping[Input, Rows]) -> Plan:
        """How a task of the exchange is done, with the rows that it was sent."""
        engine, number = self.engine, work.order.number
        match work.task:
            case Task.TAKE_ROWS:
                wanted = self._wanted.pop(number)
                return partial(self._take, wanted, rows[Input.ROWS]), _ignore
            case Task.GIVE_ROWS:
                ids = rows[Input.WANTED_ROWS]
                return lambda: engine.embedding_rows(self._checked(ids())), partial(
                    self._give, number
                )
            case Task.GIVE_GRADIENT:
                return engine.embedding_gradient, partial(self._give_gradient, number)
            case _:
                ids, gradients = rows[Input.ROW_IDS], rows[Input.ROW_GRADIENTS]
                return partial(self._add, ids, gradients), _ignore

    def _take(self, wanted: torch.Tensor, rows: Rows) -> None:
        self.engine.set_embedding_rows(wanted, _as_many(wanted, rows()))

    def _add(self, ids: Rows, gradients: Rows) -> None:
        found = self._checked(ids())
        self.engine.add_embedding_gradient(found, _as_many(found, gradients()))

    def _give(self, number: int, rows: torch.Tensor) -> None:
        header = Header(job=self.job, epoch=self.epoch, step=number, group=0)
        self.outbox.put(header, rows)

    def _give_gradient(self, number: int, gradient: tuple[torch.Tensor, torch.Tensor]) -> None:
        ids, rows = gradient
        self.outbox.put(self._up(number, Exchanged.GRADIENT_IDS), ids)
        self.outbox.put(self._up(number, Exchanged.GRADIENT_ROWS), rows)

    def _up(self, number: int, what: Exchanged) -> Header:
        return Header(
            job=self.job,
            epoch=self.epoch,
            step=number,
            group=what,
            direction=Direction.BACKWARD,
        )

    def _checked(self, ids: torch.Tensor) -> torch.Tensor:
        if not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise WireError("rows were asked for that the embedding does not have")
        return ids


def _as_many(ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    if len(rows) != len(ids):
        raise WireError(f"{len(rows)} rows of the embedding came for {len(ids)} tokens")
    return rows


def _ignore(_result: object) -> None:
    """Nothing follows."""
