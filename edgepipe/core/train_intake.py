"""Which frames a stage in training accepts, and what each of them is.

upstream     FORWARD    activations of microbatch `group`
downstream   BACKWARD   gradients of microbatch `group`
exchange     FORWARD    rows of the tied embedding, to the first stage
             BACKWARD   to the last: group 0 ids of the rows that are wanted,
                        1 ids and 2 rows of gradients
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from edgepipe.core.frame import Codec, Direction, DType, Header, JobId
from edgepipe.core.order import Input, Need
from edgepipe.core.schedule import MAX_MICROBATCHES
from edgepipe.errors import WireError

FLOATS = frozenset({DType.FLOAT32, DType.BFLOAT16, DType.FLOAT16})


class Side(StrEnum):
    """Where a frame comes from."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"
    EXCHANGE = "exchange"


class Exchanged(IntEnum):
    """What a frame from the first stage to the last is: its `group`."""

    WANTED_IDS = 0
    GRADIENT_IDS = 1
    GRADIENT_ROWS = 2


_EXCHANGES = {
    (Direction.FORWARD, 0): Input.ROWS,
    (Direction.BACKWARD, Exchanged.WANTED_IDS): Input.WANTED_ROWS,
    (Direction.BACKWARD, Exchanged.GRADIENT_IDS): Input.ROW_IDS,
    (Direction.BACKWARD, Exchanged.GRADIENT_ROWS): Input.ROW_GRADIENTS,
}


@dataclass(slots=True, kw_only=True)
class TrainIntake:
    """Frames of the job and its epoch; those of an earlier epoch are dropped and counted."""

    job: JobId
    epoch: int
    hidden_size: int
    max_rows: int
    max_order_rows: int
    dropped: int = 0

    def takes(self, header: Header, side: Side) -> Need | None:
        """What a frame is; None to drop it. Raises WireError on one that cannot be right."""
        if header.job != self.job:
            raise WireError(f"a frame of job {header.job} arrived at a stage of job {self.job}")
        if header.epoch != self.epoch:
            self.dropped += 1
            return None
        need = _need(header, side)
        self._check(header, need)
        return need

    def _check(self, header: Header, need: Need) -> None:
        of_microbatch = need.kind in {Input.ACTIVATIONS, Input.GRADIENT}
        limit = self.max_rows if of_microbatch else self.max_order_rows + 1
        rows = header.shape[0] if header.shape else 0
        if not 0 < rows <= limit:
            raise WireError(f"a frame of {rows} rows arrived where 1 to {limit} are allowed")
        ids = need.kind in {Input.WANTED_ROWS, Input.ROW_IDS}
        wanted = (rows,) if ids else (rows, self.hidden_size)
        dtypes = FLOATS if of_microbatch else {DType.INT64 if ids else DType.FLOAT32}
        if header.shape != wanted or header.dtype not in dtypes:
            raise WireError(
                f"a frame has shape {header.shape} {header.dtype}, "
                f"not {wanted} {'/'.join(sorted(dtypes))}"
            )
        if not of_microbatch and header.codec is not Codec.NONE:
            raise WireError(f"{need.kind} travel as they are, not as {header.codec}")


def _need(header: Header, side: Side) -> Need:
    if side is Side.EXCHANGE:
        kind = _EXCHANGES.get((header.direction, header.group))
        if kind is not None:
            return Need(kind)
    elif header.group < MAX_MICROBATCHES:
        if side is Side.UPSTREAM and header.direction is Direction.FORWARD:
            return Need(Input.ACTIVATIONS, header.group)
        if side is Side.DOWNSTREAM and header.direction is Direction.BACKWARD:
            return Need(Input.GRADIENT, header.group)
    raise WireError(
        f"a frame {header.direction} of microbatch {header.group} came from {side}, "
        "where none is sent"
    )
