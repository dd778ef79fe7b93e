"""What a training step is made of: values that coordinator, stages and engines share.

A step is a batch, cut into microbatches; each holds some sequences, each of a length of its own.
A frame of a microbatch carries its real tokens only, sequence after sequence:

    lengths (3, 2)      rows  a0 a1 a2 b0 b1        5 rows cross the boundary
                              a0 a1 a2              an engine pads to [2, 3] and computes
                              b0 b1 ··              what it computes of padding is never looked at

Targets stand beside the tokens: `targets[t]` is the token that follows token t, IGNORED where
nothing is to be learned from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from edgepipe.core.frame import DType
from edgepipe.core.work import TrainMode

IGNORED = -100
"""A target that counts for nothing, as torch's cross entropy has it."""


class Purpose(StrEnum):
    """What a step is for: to learn from its batch, to tell its loss, or to compare its gradients.

    Gradients of one rehearsal are compared with those of the next, and nothing is applied.
    """

    TRAIN = "train"
    EVALUATE = "evaluate"
    REHEARSE = "rehearse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Microbatch:
    """The microbatch `index` of step `step`: sequences of these lengths, in tokens."""

    step: int
    index: int
    lengths: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Tokens, and so the rows of its frames."""
        return sum(self.lengths)

    @property
    def num_padded(self) -> int:
        """Tokens that are computed, padding included."""
        return len(self.lengths) * max(self.lengths)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamW:
    """Loshchilov and Hutter 2019, as torch has it. Tensors of one dimension do not decay.

    With `eight_bit` the moments are kept in eight bits, where the library is there (CUDA).
    """

    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eight_bit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """LoRA (Hu et al. 2021) beside every linear module of these leaf names, as peft has it."""

    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a model is trained, the same on every stage.

    Weights are held in float32 where they are trained; the stage's dtype is what is computed in,
    by autocast where it is smaller. `adapters` are there in the mode `lora` alone. Every random
    number follows from `seed`.
    """

    mode: TrainMode
    seed: int
    recompute: bool
    optimizer: AdamW
    adapters: Adapters | None
    dtype: DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a step comes to.

    Gradients are multiplied by `scale` (clipping, and the loss scale undone), then the optimizer
    steps at `learning_rate`.
    """

    learning_rate: float
    scale: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Gradients:
    """A stage's sum of squared gradients, as accumulated: the loss scale is still in them."""

    sum_of_squares: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """Where a value first was not finite: `what` is "activations", "loss" or "gradients"."""

    microbatch: int
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReady:
    """What a stage reports once all microbatches of an order are through.

    `loss_sums` are each microbatch's, on the last stage. Seconds are the compute thread's, bytes
    the encoded payloads' down and up, `inflight` the most microbatches that were held. `dot` is of
    a rehearsal's gradients with those of the one before.
    """

    order: int
    sum_of_squares: float
    loss_sums: tuple[float, ...]
    broken: Broken | None
    busy_s: float
    forward_s: float
    backward_s: float
    sent_bytes: int
    returned_bytes: int
    inflight: int
    dot: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageApplied:
    """A stage has carried out the decision on an order; the peak is of its process so far."""

    order: int
    peak_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of an order that every stage was ready for: no update, and it is forgotten.

    With `export` the stages apply nothing more until what they trained was read.
    """

    order: int
    update: Update | None
    export: bool = False
