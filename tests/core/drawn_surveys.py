"""Random models, machines and links, small enough to try every placement, and work for them."""

from __future__ import annotations

from random import Random

from on_paper import llama, machine

from edgepipe.core.candidates import Candidate
from edgepipe.core.fit import Workload
from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import ModelShape
from edgepipe.core.posing import Asked
from edgepipe.core.problem import Nic
from edgepipe.core.speed import CodecSpeed, Curve, DeviceSpeed, ItemSpeed, Link
from edgepipe.core.survey import Survey
from edgepipe.core.training_fit import LIBRARY_BYTES
from edgepipe.core.work import Batch, Objective, TrainMode, Work

MIB = 1 << 20


def drawn_model(rng: Random) -> ModelShape:
    return llama(
        num_layers=rng.randint(3, 6),
        hidden=64,
        width=rng.choice([128, 512]),
        kv=32,
        vocab=rng.choice([256, 4096]),
        tied=rng.random() < 0.5,
    )


def drawn_survey(
    rng: Random, model: ModelShape, *, most: int = 4, tight: bool = False, beside: int = 0
) -> Survey:
    """Two devices to `most`, often two on a node, with pools, Wi-Fi, and memory that may bite."""
    num = rng.randint(2, most)
    devices = tuple(_machine(rng, model, index, tight=tight, beside=beside) for index in range(num))
    nodes = sorted({device.node for device in devices})
    speed = rng.choice([1e5, 1e6, 1e8])
    return Survey(
        devices=devices,
        speeds=tuple(_speeds(rng, model) for _ in devices),
        links=tuple(
            Link(
                sender=a,
                receiver=b,
                bytes_per_s=speed * rng.uniform(0.5, 2),
                latency_s=rng.uniform(0, 2e-3),
            )
            for a in nodes
            for b in nodes
            if a != b and rng.random() < 0.95
        ),
        nics={
            node: Nic(
                send_bytes_per_s=speed * rng.uniform(0.5, 2),
                receive_bytes_per_s=speed * rng.uniform(0.5, 2),
                medium=rng.choice([None, "wifi"]),
            )
            for node in nodes
            if rng.random() < 0.7
        },
    )


def _machine(rng: Random, model: ModelShape, index: int, *, tight: bool, beside: int) -> Candidate:
    node = rng.choice([f"n{index}", f"n{index}", "shared"])
    weights = 2 * sum(model.parameters.values())
    room = rng.uniform(0.3, 1.5) if tight else 40
    return machine(
        node,
        f"cuda:{index}",
        limit=int(beside + MIB + room * weights),
        baseline=MIB // 2,
        pool=rng.choice([None, "ram"]),
    )


def _speeds(rng: Random, model: ModelShape) -> DeviceSpeed:
    slowness = rng.choice([1.0, 1.0, 2.0, 5.0]) * rng.uniform(0.8, 1.2)
    return DeviceSpeed(
        items=tuple(
            _item(rng, slowness * (0.2 if at == 0 else 1.0)) for at in range(model.num_layers + 2)
        ),
        codecs={Codec.INT8: CodecSpeed(encode_s=2e-9, decode_s=1e-9, encode_call_s=5e-5)},
        overhead_s=rng.choice([0.0, 2e-4]),
    )


def _item(rng: Random, slowness: float) -> ItemSpeed:
    seconds = 1e-3 * slowness * rng.uniform(0.5, 2)
    curve = Curve(rows=(1, 64), seconds=(seconds, 8 * seconds))
    return ItemSpeed(
        decode=curve,
        prefill=curve,
        forward=curve,
        backward=curve.times(2),
        attention_s=1e-8,
        prefill_attention_s=1e-9,
        update_s=seconds / 3,
    )


def drawn_work(rng: Random, objective: Objective) -> Work:
    return Work(
        objective=objective,
        workload=Workload(
            dtype=rng.choice([DType.BFLOAT16, DType.FLOAT32]),
            num_slots=rng.choice([1, 4]),
            max_positions=rng.choice([16, 64]),
            prefill_chunk=rng.choice([4, 16]),
        ),
        batch=Batch(
            mode=rng.choice(list(TrainMode)),
            sequences=rng.choice([2, 3, 4]),
            sequence_length=rng.choice([8, 32]),
            rank=4,
        )
        if objective is Objective.TRAIN
        else None,
    )


def drawn(
    seed: int, objective: Objective, *, most: int = 4, tight: bool | None = None, free: bool = False
) -> Asked:
    """What a plan is asked for: sometimes of some stages, of nodes in order, with one codec."""
    rng = Random(seed)
    model = drawn_model(rng)
    survey = drawn_survey(
        rng,
        model,
        most=most,
        tight=rng.random() < 0.6 if tight is None else tight,
        beside=LIBRARY_BYTES if objective is Objective.TRAIN else 0,
    )
    nodes = sorted({device.node for device in survey.devices})
    rng.shuffle(nodes)
    kind = "free" if free else rng.choice(["free", "free", "order", "stages", "codec"])
    return Asked.of(
        model,
        survey,
        drawn_work(rng, objective),
        nodes=nodes if kind == "order" else None,
        num_stages=rng.randint(1, len(survey.devices)) if kind == "stages" else None,
        codec=Codec.INT8 if kind == "codec" else None,
    )
