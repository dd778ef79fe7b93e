"""How a stage trains, what it is ordered to do, and what it reports."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgepipe.core.frame import DType
from edgepipe.core.order import MAX_SEQUENCES, Order
from edgepipe.core.schedule import MAX_MICROBATCHES, Action
from edgepipe.core.training import (
    AdamW,
    Adapters,
    Broken,
    Decision,
    Microbatch,
    Purpose,
    StageApplied,
    StageReady,
    Training,
    Update,
)
from edgepipe.core.work import TrainMode
from edgepipe.errors import UsageError, WireError
from edgepipe.transport.convert.bounds import few, finite, text
from edgepipe.transport.convert.frames import (
    codec_from_wire,
    codec_to_wire,
    dtype_from_wire,
    dtype_to_wire,
)
from edgepipe.wire.v1 import stage_pb2

MAX_RANK = 1 << 12
MAX_TARGET_MODULES = 1 << 8
MAX_TOKENS = 1 << 20
BETA = 1 - 1e-9
"""A moment that forgets nothing would be divided by nothing."""


def fill_training(wire: stage_pb2.Training, training: Training) -> None:
    """How a stage trains, into an empty message; its sizes are the caller's."""
    optimizer, adapters = training.optimizer, training.adapters
    wire.full = training.mode is TrainMode.FULL
    wire.seed = training.seed
    wire.recompute = training.recompute
    wire.weight_decay = optimizer.weight_decay
    wire.beta1, wire.beta2 = optimizer.betas
    wire.eps = optimizer.eps
    wire.eight_bit = optimizer.eight_bit
    wire.dtype = dtype_to_wire(training.dtype)
    if adapters is not None:
        wire.rank = adapters.rank
        wire.alpha = adapters.alpha
        wire.dropout = adapters.dropout
        wire.target_modules.extend(adapters.target_modules)


def training_from_wire(wire: stage_pb2.Training) -> Training:
    """How a stage trains. Raises WireError for numbers that mean nothing."""
    return Training(
        mode=TrainMode.FULL if wire.full else TrainMode.LORA,
        seed=wire.seed,
        recompute=wire.recompute,
        optimizer=AdamW(
            weight_decay=_within("weight decay", wire.weight_decay, 0, 1),
            betas=(_within("beta", wire.beta1, 0, BETA), _within("beta", wire.beta2, 0, BETA)),
            eps=_within("eps", wire.eps, 0, 1),
            eight_bit=wire.eight_bit,
        ),
        adapters=None if wire.full else _adapters(wire),
        dtype=_float(dtype_from_wire(wire.dtype)),
    )


def _float(dtype: DType) -> DType:
    if dtype is DType.INT64:
        raise WireError("a stage trains in float32, bfloat16 or float16")
    return dtype


def _adapters(wire: stage_pb2.Training) -> Adapters:
    if not 1 <= wire.rank <= MAX_RANK:
        raise WireError(f"an adapter has rank {wire.rank}, only 1 to {MAX_RANK} are allowed")
    modules = few(wire.target_modules, MAX_TARGET_MODULES, "target modules")
    return Adapters(
        rank=wire.rank,
        alpha=_within("alpha", wire.alpha, 0, 1e6),
        dropout=_within("dropout", wire.dropout, 0, 1),
        target_modules=tuple(text(name) for name in modules),
    )


def _within(what: str, value: float, low: float, high: float) -> float:
    if not low <= value <= high:
        raise WireError(f"{what} is {value}, only {low} to {high} are allowed")
    return value


def order_to_wire(order: Order) -> stage_pb2.Order:
    """What a stage does for a step."""
    return stage_pb2.Order(
        order=order.number,
        step=order.step,
        evaluate=order.purpose is Purpose.EVALUATE,
        rehearse=order.purpose is Purpose.REHEARSE,
        actions=[str(action) for action in order.actions],
        microbatches=[stage_pb2.Lengths(tokens=each.lengths) for each in order.microbatches],
        loss_weight=order.loss_weight,
        codec_forward=codec_to_wire(order.codec_forward),
        codec_backward=codec_to_wire(order.codec_backward),
    )


def order_from_wire(wire: stage_pb2.Order) -> Order:
    """What a stage does for a step; whether it can is the stage's to say."""
    few(wire.microbatches, MAX_MICROBATCHES, "microbatches")
    few(wire.actions, 2 * MAX_MICROBATCHES, "actions")
    try:
        actions = tuple(Action.parse(text(action)) for action in wire.actions)
    except UsageError as error:
        raise WireError(str(error)) from None
    microbatches = tuple(
        Microbatch(
            step=wire.step,
            index=index,
            lengths=tuple(few(lengths.tokens, MAX_SEQUENCES, "sequences")),
        )
        for index, lengths in enumerate(wire.microbatches)
    )
    return Order(
        number=wire.order,
        step=wire.step,
        purpose=_purpose(wire),
        actions=actions,
        microbatches=microbatches,
        loss_weight=finite(wire.loss_weight),
        codec_forward=codec_from_wire(wire.codec_forward),
        codec_backward=codec_from_wire(wire.codec_backward),
    )


def _purpose(wire: stage_pb2.Order) -> Purpose:
    if wire.evaluate:
        return Purpose.EVALUATE
    return Purpose.REHEARSE if wire.rehearse else Purpose.TRAIN


def ids_to_wire(ids: np.ndarray[Any, np.dtype[np.int32]] | None) -> bytes:
    """Tokens or targets; b"" for none."""
    return b"" if ids is None else ids.astype("<i4").tobytes()


def ids_from_wire(data: bytes) -> np.ndarray[Any, np.dtype[np.int32]] | None:
    """Tokens or targets int32 [rows]; None for none."""
    if not data:
        return None
    if len(data) % 4 or len(data) > 4 * MAX_TOKENS:
        raise WireError(f"{len(data)} bytes of tokens arrived, at most {MAX_TOKENS} tokens may")
    return np.frombuffer(data, "<i4").astype(np.int32)


def decision_to_wire(decision: Decision) -> stage_pb2.Decide:
    """What becomes of an order."""
    update = decision.update or Update(learning_rate=0.0, scale=0.0)
    return stage_pb2.Decide(
        order=decision.order,
        apply=decision.update is not None,
        learning_rate=update.learning_rate,
        scale=update.scale,
        export=decision.export,
    )


def decision_from_wire(wire: stage_pb2.Decide) -> Decision:
    """What becomes of an order."""
    update = Update(learning_rate=finite(wire.learning_rate), scale=finite(wire.scale))
    return Decision(order=wire.order, update=update if wire.apply else None, export=wire.export)


def ready_to_wire(ready: StageReady) -> stage_pb2.Ready:
    """What an order came to on a stage."""
    broken = ready.broken
    return stage_pb2.Ready(
        order=ready.order,
        sum_of_squares=ready.sum_of_squares,
        loss_sums=ready.loss_sums,
        broken=(
            None
            if broken is None
            else stage_pb2.Broken(microbatch=broken.microbatch, what=broken.what)
        ),
        busy_s=ready.busy_s,
        forward_s=ready.forward_s,
        backward_s=ready.backward_s,
        sent_bytes=ready.sent_bytes,
        returned_bytes=ready.returned_bytes,
        inflight=ready.inflight,
        dot=ready.dot,
    )


def ready_from_wire(wire: stage_pb2.Ready) -> StageReady:
    """What an order came to on a stage; its sums may be infinite or NaN, which is for others."""
    few(wire.loss_sums, MAX_MICROBATCHES, "losses")
    broken = None
    if wire.HasField("broken"):
        broken = Broken(microbatch=wire.broken.microbatch, what=text(wire.broken.what))
    seconds = (wire.busy_s, wire.forward_s, wire.backward_s)
    if not all(math.isfinite(each) for each in seconds):
        raise WireError("a stage reports seconds that are no numbers")
    return StageReady(
        order=wire.order,
        sum_of_squares=wire.sum_of_squares,
        loss_sums=tuple(wire.loss_sums),
        broken=broken,
        busy_s=wire.busy_s,
        forward_s=wire.forward_s,
        backward_s=wire.backward_s,
        sent_bytes=wire.sent_bytes,
        returned_bytes=wire.returned_bytes,
        inflight=wire.inflight,
        dot=wire.dot,
    )


def applied_to_wire(applied: StageApplied) -> stage_pb2.Applied:
    """A decision was carried out."""
    return stage_pb2.Applied(order=applied.order, peak_bytes=applied.peak_bytes)


def applied_from_wire(wire: stage_pb2.Applied) -> StageApplied:
    """A decision was carried out."""
    return StageApplied(order=wire.order, peak_bytes=wire.peak_bytes)
