"""From a model, a survey and a setting to the placement problem that they pose.

decode    item_s = decode curve at the group's rows + rows · context · attention_s
prefill   item_s = prefill curve at the chunk's rows
                   + rows · half the prompt · prefill_attention_s
training  item_s = forward (twice where it is computed again) + backward, at a microbatch's rows
                   the head's for those of them that have a target
links     latency + what the runtime adds on the sender + encoding there and decoding here;
          without a NIC's word, its best link is what it carries. Where gradients have another
          codec, both ways take as long as the slower one
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from edgepipe.core.candidates import Candidate
from edgepipe.core.compression import (
    Compression,
    Rows,
    Table,
    compress,
    compression_of,
    gradient_codecs,
)
from edgepipe.core.frame import Codec
from edgepipe.core.model import ModelShape
from edgepipe.core.problem import Device, Floats, Ints, Problem, Traffic, Training
from edgepipe.core.setting import Setting
from edgepipe.core.speed import ItemSpeed
from edgepipe.core.stage_bytes import stage_bytes_of
from edgepipe.core.survey import LOOPBACK_LATENCY_S, UNREACHABLE_S, Survey
from edgepipe.core.training_fit import Footprint, held_bytes, inflight_bytes
from edgepipe.core.work import Objective, TrainMode, Work

TOKEN_BYTES = 64
"""A sampled token on its way home, in its frame."""

_GRADIENT_ROW_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """All that a plan is made from; `unnamed` are devices that the user did not name.

    `codec_backward` is the user's word on gradients, where it is another than on activations.

    `stage_bytes` is of inference.
    """

    model: ModelShape
    survey: Survey
    work: Work
    stage_bytes: Ints
    codec: Codec | None = None
    codec_backward: Codec | None = None
    num_stages: int | None = None
    in_order: bool = False
    unnamed: tuple[Candidate, ...] = ()

    @property
    def asking_s(self) -> float:
        """What a prompt takes to reach the first stage, and a token to come back, at most.

        Whoever asks is not measured: as near as another process of one machine.
        """
        overhead_s = max((speed.overhead_s for speed in self.survey.speeds), default=0.0)
        return 2 * (LOOPBACK_LATENCY_S + overhead_s)

    @classmethod
    def of(
        cls,
        model: ModelShape,
        survey: Survey,
        work: Work,
        *,
        nodes: Sequence[str] | None = None,
        num_stages: int | None = None,
        codec: Codec | None = None,
        codec_backward: Codec | None = None,
    ) -> Asked:
        """Count what stages take, on all devices of a survey or on those of `nodes`, in order.

        Raises as `candidates.in_order`.
        """
        named = survey.of(nodes)
        keys = {candidate.key for candidate in named.devices}
        return cls(
            model=model,
            survey=named if work.batch is None else named.learning(work.batch.learned),
            work=work,
            stage_bytes=stage_bytes_of(model, work.workload),
            codec=codec,
            codec_backward=codec_backward,
            num_stages=num_stages,
            in_order=nodes is not None and num_stages in {None, len(named.devices)},
            unnamed=tuple(each for each in survey.devices if each.key not in keys),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A setting, the problem that it poses, and the codecs of its links [D, D] each way."""

    setting: Setting
    problem: Problem
    rows: Rows
    forward: Compression
    backward: Compression | None = None

    @property
    def codecs(self) -> Table:
        """From the row's device to the column's."""
        return self.forward.codecs


def pose(asked: Asked, setting: Setting, codecs: Table | None = None) -> Case:
    """The problem of one setting; with `codecs` chosen already, or each link's best."""
    rows = _rows(asked, setting)
    forward = (
        compress(asked.survey, rows, asked.codec)
        if codecs is None
        else compression_of(asked.survey, rows, codecs)
    )
    trains = setting.objective is Objective.TRAIN
    return posed(asked, setting, rows, forward, _backward(asked, rows, forward) if trains else None)


def _backward(asked: Asked, rows: Rows, forward: Compression) -> Compression:
    """Each link's codec for activations is also its codec for gradients, where it may be."""
    named = asked.codec_backward
    table = (
        gradient_codecs(forward.codecs)
        if named is None
        else tuple((named,) * len(row) for row in forward.codecs)
    )
    if table == forward.codecs:
        return forward
    return compression_of(asked.survey, rows, table)


def posed(
    asked: Asked,
    setting: Setting,
    rows: Rows,
    forward: Compression,
    backward: Compression | None,
) -> Case:
    """The problem with codecs that are chosen already."""
    trains = setting.objective is Objective.TRAIN
    latency_s = _latency_s(asked.survey)
    problem = Problem(
        devices=tuple(_device(candidate) for candidate in asked.survey.devices),
        item_s=_item_s(asked, setting, rows.num_rows),
        stage_bytes=(held_bytes(footprint(asked, setting)) if trains else asked.stage_bytes),
        link_bytes_per_s=_bytes_per_s(asked.survey),
        link_latency_s=latency_s + _codec_s(forward, backward),
        return_latency_s=latency_s,
        frame_share=forward.share,
        gradient_share=None if backward is None else backward.share,
        traffic=_traffic(asked, setting, rows),
        goal=setting.goal(4 * float(latency_s[latency_s < UNREACHABLE_S].max(initial=0.0))),
        nics=asked.survey.nics,
        training=_training(asked, setting) if trains else None,
        num_stages=None if asked.in_order else asked.num_stages,
        order=tuple(range(len(asked.survey.devices))) if asked.in_order else None,
    )
    return Case(setting=setting, problem=problem, rows=rows, forward=forward, backward=backward)


def _rows(asked: Asked, setting: Setting) -> Rows:
    """What one frame of a boundary holds."""
    work = asked.work
    match setting.objective:
        case Objective.LATENCY | Objective.THROUGHPUT:
            num_rows = setting.group_size
        case Objective.PREFILL:
            num_rows = round(work.chunk_rows)
        case Objective.TRAIN:
            assert work.batch is not None
            num_rows = -(-work.batch.num_tokens // setting.num_microbatches)
        case _:
            assert_never(setting.objective)
    return Rows(num_rows=num_rows, hidden_size=asked.model.hidden_size, dtype=work.workload.dtype)


def _item_s(asked: Asked, setting: Setting, num_rows: int) -> Floats:
    return np.array(
        [
            [_seconds(asked.work, setting, item, num_rows) for item in speed.items]
            for speed in asked.survey.speeds
        ]
    )


def _seconds(work: Work, setting: Setting, item: ItemSpeed, num_rows: int) -> float:
    match setting.objective:
        case Objective.LATENCY | Objective.THROUGHPUT:
            seeing = num_rows * work.decode_context * item.attention_s
            return item.decode.at(num_rows) + seeing
        case Objective.PREFILL:
            seeing = num_rows * work.prompt / 2 * item.prefill_attention_s
            return item.prefill.at(num_rows) + seeing
        case Objective.TRAIN:
            return sum(train_seconds(setting, item, num_rows))
        case _:
            assert_never(setting.objective)


def train_seconds(setting: Setting, item: ItemSpeed, num_rows: int) -> tuple[float, float]:
    """Forward and backward of a microbatch; what is computed again counts as backward."""
    forward = item.forward.at(num_rows)
    again = forward if setting.recompute else 0.0
    return forward, again + item.backward.at(num_rows)


def _traffic(asked: Asked, setting: Setting, rows: Rows) -> Traffic:
    frame_bytes = rows.encoded_bytes(Codec.NONE)
    match setting.objective:
        case Objective.LATENCY | Objective.THROUGHPUT:
            home = rows.num_rows * TOKEN_BYTES
            return Traffic(frame_bytes=frame_bytes, return_bytes=home)
        case Objective.PREFILL:
            return Traffic(frame_bytes=frame_bytes)
        case Objective.TRAIN:
            return Traffic(
                frame_bytes=frame_bytes,
                gradient_bytes=frame_bytes,
                exchange_bytes=_exchange_bytes(asked),
            )
        case _:
            assert_never(setting.objective)


def _exchange_bytes(asked: Asked) -> int | None:
    """Rows of a tied embedding, each way once a step; none where it is not trained."""
    batch = asked.work.batch
    assert batch is not None
    if not asked.model.tied or batch.mode is TrainMode.LORA:
        return None
    seen = min(batch.num_tokens, asked.model.vocab_size)
    return seen * asked.model.hidden_size * _GRADIENT_ROW_BYTES


def footprint(asked: Asked, setting: Setting) -> Footprint:
    """How the model is trained in a setting."""
    assert asked.work.batch is not None
    return Footprint(
        model=asked.model,
        dtype=asked.work.workload.dtype,
        batch=asked.work.batch,
        rows=asked.work.batch.most_rows(setting.num_microbatches),
        recompute=setting.recompute,
    )


def _training(asked: Asked, setting: Setting) -> Training:
    return Training(
        inflight_bytes=inflight_bytes(footprint(asked, setting)),
        update_s=np.array(
            [[item.update_s for item in speed.items] for speed in asked.survey.speeds]
        ),
    )


def _device(candidate: Candidate) -> Device:
    device = candidate.device
    return Device(
        node=candidate.node,
        device=device.id,
        host=candidate.machine,
        pool=device.pool,
        memory_limit_bytes=device.memory_limit_bytes,
        baseline_bytes=device.baseline_bytes,
    )


def _codec_s(forward: Compression, backward: Compression | None) -> Floats:
    """What the codecs take on every link [D, D]."""
    return forward.seconds if backward is None else np.maximum(forward.seconds, backward.seconds)


def _bytes_per_s(survey: Survey) -> Floats:
    devices = survey.devices
    return np.array([[survey.link(a, b).bytes_per_s for b in devices] for a in devices])


def _latency_s(survey: Survey) -> Floats:
    """A frame's latency [D, D], with what the runtime adds on the device that sends it."""
    devices = survey.devices
    return np.array(
        [
            [speed.overhead_s + survey.link(sender, receiver).latency_s for receiver in devices]
            for sender, speed in zip(devices, survey.speeds, strict=True)
        ]
    )
