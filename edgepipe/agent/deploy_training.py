"""From the `training` of a `Load` message to the parts of a stage that trains."""

from __future__ import annotations

import torch

from edgepipe.agent import deploy
from edgepipe.core.frame import JobId
from edgepipe.core.order import Seat
from edgepipe.core.train_intake import TrainIntake
from edgepipe.engine.emulated_training import EmulatedTrainer
from edgepipe.engine.training import TrainingEngine
from edgepipe.errors import StageError, WireError
from edgepipe.wire.v1 import stage_pb2

MAX_ROWS = 1 << 20
MAX_ORDER_ROWS = 1 << 26
MAX_CREDITS = 1 << 10
EXCHANGE_CREDITS = 8
"""Frames about a tied embedding: wanted ids, gradient ids and rows of two orders, and room."""


def check(load: stage_pb2.Load) -> None:
    """Raise WireError unless every value is one that a stage in training can have."""
    training = load.training
    bounds = {
        "rows of a microbatch": (training.max_rows, 1, MAX_ROWS),
        "rows of an order": (training.max_order_rows, training.max_rows, MAX_ORDER_ROWS),
        "credits for activations": (training.credits_forward, 1, MAX_CREDITS),
        "credits for gradients": (training.credits_backward, 1, MAX_CREDITS),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise WireError(f"a stage cannot have {name} {value}, only {low} to {high}")


def seat(load: stage_pb2.Load) -> Seat:
    """Which stage it is."""
    exchanges = load.training.exchange and load.num_stages > 1
    return Seat(stage=load.stage, num_stages=load.num_stages, exchanges=exchanges)


def intake(load: stage_pb2.Load) -> TrainIntake:
    """What frames it takes."""
    return TrainIntake(
        job=JobId(load.job),
        epoch=load.epoch,
        hidden_size=load.hidden_size,
        max_rows=load.training.max_rows,
        max_order_rows=load.training.max_order_rows,
    )


def credits_down(load: stage_pb2.Load) -> int:
    """Frames that a stage is ready to hold of what the stage after it in the ring sends back."""
    if not load.HasField("training"):
        return deploy.credits(load)
    is_last = load.stage == load.num_stages - 1
    return EXCHANGE_CREDITS if is_last else load.training.credits_backward


def credits_up(load: stage_pb2.Load) -> int:
    """Frames that a stage is ready to hold of what the stage before it in the ring sends."""
    if not load.HasField("training"):
        return deploy.credits(load)
    return EXCHANGE_CREDITS if load.stage == 0 else load.training.credits_forward


def max_frame_bytes(load: stage_pb2.Load) -> int:
    """The largest payload that may arrive: float32 rows, of a microbatch or of the embedding."""
    if not load.HasField("training"):
        return deploy.max_frame_bytes(load)
    rows = load.training.max_rows
    if load.training.exchange:
        rows = max(rows, min(load.training.max_order_rows, load.vocab_size) + 1)
    return max(rows * load.hidden_size * 4, load.training.max_order_rows * 8)


def make_trainer(name: str, device: torch.device) -> TrainingEngine:
    """The training engine of that name. Raises StageError for one that this agent lacks."""
    match name:
        case "torch":
            from edgepipe.engine.torch.training import TorchTrainer  # noqa: PLC0415 -- seconds

            return TorchTrainer(str(device))
        case "emulated":
            return EmulatedTrainer()
        case _:
            raise StageError(f"this agent trains with torch and emulated, not with {name!r}")
