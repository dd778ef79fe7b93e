"""What a rank of torch.distributed.pipelining is told, as it travels on a command line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Self

from bench.training_task import EmulatedTraining, LlamaTraining, Training

_TRAININGS = {kind.__name__: kind for kind in (EmulatedTraining, LlamaTraining)}


class Schedule(StrEnum):
    """The rival's, of one stage a rank.

    Those of several stages a rank send twice as much: 6 to 20 % slower at 100 Mbit/s.
    """

    GPIPE = "GPipe"
    ONE_F_ONE_B = "1F1B"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankTask:
    """What a rank is told. Ranks meet at `rendezvous`, a file that is not there yet.

    A file and not a port: torch's store looks up names, and a namespace waits long for a DNS.
    """

    rank: int
    rendezvous: str
    steps: int
    training: Training
    warm_ups: int = 2

    def to_json(self) -> str:
        """As the command line takes it."""
        return json.dumps({**asdict(self), "kind": type(self.training).__name__})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `to_json` made."""
        fields: dict[str, Any] = json.loads(text)
        kind = _TRAININGS[fields.pop("kind")]
        return cls(**{**fields, "training": kind(**fields["training"])})
