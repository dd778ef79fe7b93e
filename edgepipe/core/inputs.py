"""The costs that a plan was made from, so that anyone can compute it again.

docs/plan.md says how.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import accumulate

from edgepipe.core.fit import Workload, widest
from edgepipe.core.frame import Codec, DType
from edgepipe.core.model import Item, ModelShape
from edgepipe.core.posing import Asked, Case, footprint, pose, train_seconds
from edgepipe.core.problem import Problem
from edgepipe.core.setting import Setting
from edgepipe.core.training_fit import Footprint
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import Batch, Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemInput:
    """An item's costs as they were used.

    `shared_bytes` of its `weight_bytes` belong to tensors that an earlier item holds too: a stage
    with both items counts them once. `shared` are the bytes of those that any other item holds, by
    name. `width` is that of a layer's widest product. In training `adapter_parameters` are those
    beside it, `activation_bytes` what a layer takes while it is worked on, and
    `inflight_bytes` what a microbatch in flight leaves with it.
    """

    name: str
    weight_bytes: int
    shared_bytes: int
    kv_bytes_per_token: int
    flops_per_token: int
    shared: dict[str, int] = field(default_factory=dict)
    width: int = 0
    adapter_parameters: int = 0
    activation_bytes: int = 0
    inflight_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInput:
    """A device as the plan saw it; devices of one node and pool share memory.

    `item_s` are seconds per frame of each item, in the items' order; in training of forward and
    backward of a microbatch, of which `forward_s` are the forward's. `update_s` are the
    optimizer's, once a step. For inference `decode_s` are of one row of a single sequence, and
    `prefill_s` of a chunk of the prompt.
    """

    node: str
    device: str
    host: str
    kind: str
    pool: str
    memory_limit_bytes: int
    baseline_bytes: int
    item_s: tuple[float, ...] = ()
    forward_s: tuple[float, ...] = ()
    decode_s: tuple[float, ...] = ()
    prefill_s: tuple[float, ...] = ()
    update_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SentInput:
    """An encoded frame on a link, and its latency with what the runtime and the codec take."""

    num_bytes: float
    latency_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkInput:
    """A link between two devices, one way, and what a frame on it is.

    `latency_s` holds what the runtime and the codec take besides; `return_latency_s`, of what goes
    home, has no codec in it. `frame_bytes` and, in training, `gradient_bytes` are those of an
    encoded frame on this way. `decode` and `prefill` are of one sequence, for inference.
    """

    sender: str
    receiver: str
    bytes_per_s: float
    latency_s: float
    codec: Codec
    frame_bytes: float
    gradient_bytes: float
    return_latency_s: float = 0.0
    decode: SentInput | None = None
    prefill: SentInput | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NicInput:
    """What a host sends and receives at most; `medium` is shared by its stations."""

    host: str
    send_bytes_per_s: float
    receive_bytes_per_s: float
    medium: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameInput:
    """What one frame is, and how many there are of what the objective counts.

    `return_bytes` go home of each frame, `decode_return_bytes` of each token of a single sequence;
    `prompt_chunks` is how many frames a prompt of `prompt_tokens` makes, and `asking_s` what it
    takes to the first stage, and its first token back.
    """

    num_rows: int
    num_groups: int
    num_chunks: int
    num_microbatches: int
    return_bytes: int | None
    exchange_bytes: int | None
    fixed_s: float
    prompt_tokens: int
    prompt_chunks: int = 1
    decode_return_bytes: int | None = None
    asking_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that went into a plan; `items` are in the model's order."""

    dtype: DType
    num_slots: int
    max_positions: int
    prefill_chunk: int
    hidden_size: int
    vocab_size: int
    items: tuple[ItemInput, ...]
    devices: tuple[DeviceInput, ...]
    links: tuple[LinkInput, ...] = ()
    nics: tuple[NicInput, ...] = ()
    frame: FrameInput | None = None
    batch: Batch | None = None
    weight_format: WeightFormat | None = None


def inputs(asked: Asked, case: Case) -> Inputs:
    """What a plan in this setting is made from."""
    workload, model = asked.work.workload, asked.model
    single = _single(asked, case)
    return Inputs(
        dtype=workload.dtype,
        weight_format=workload.weight_format,
        num_slots=workload.num_slots,
        max_positions=workload.max_positions,
        prefill_chunk=workload.prefill_chunk,
        hidden_size=model.hidden_size,
        vocab_size=model.vocab_size,
        items=_item_inputs(asked, case),
        devices=tuple(
            _device_input(asked, case, single, at) for at in range(len(asked.survey.devices))
        ),
        links=_link_inputs(case, single),
        nics=tuple(
            NicInput(
                host=host,
                send_bytes_per_s=nic.send_bytes_per_s,
                receive_bytes_per_s=nic.receive_bytes_per_s,
                medium=nic.medium,
            )
            for host, nic in sorted(case.problem.nics.items())
        ),
        frame=_frame_input(asked, case, single),
        batch=asked.work.batch,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Single:
    """The problems of one sequence, decoded and prefilled."""

    decode: Problem
    prefill: Problem


def _single(asked: Asked, case: Case) -> _Single | None:
    """With the codecs that the plan has chosen; None for training."""
    if case.setting.objective is Objective.TRAIN:
        return None
    decode, prefill = (
        pose(asked, Setting(objective=objective, num_chunks=asked.work.num_chunks), case.codecs)
        for objective in (Objective.LATENCY, Objective.PREFILL)
    )
    return _Single(decode=decode.problem, prefill=prefill.problem)


def _item_inputs(asked: Asked, case: Case) -> tuple[ItemInput, ...]:
    model, workload = asked.model, asked.work.workload
    items = model.items(0, model.num_layers, embedding=True, head=True)
    held = accumulate(
        items, lambda names, item: names | set(item.tensors), initial=frozenset[str]()
    )
    holders = Counter(name for item in items for name in set(item.tensors))
    plain = [
        _item_input(model, item, before, holders, workload)
        for item, before in zip(items, held, strict=False)
    ]
    if case.setting.objective is not Objective.TRAIN:
        return tuple(plain)
    trained = footprint(asked, case.setting)
    return tuple(_trained(trained, item, each) for item, each in zip(items, plain, strict=True))


def _item_input(
    model: ModelShape,
    item: Item,
    held: frozenset[str],
    holders: Counter[str],
    workload: Workload,
) -> ItemInput:
    dtype, weight_format = workload.dtype, workload.weight_format
    if weight_format is not None:
        held, holders = frozenset(), Counter()
    shared = sum(model.parameters[name] for name in held.intersection(item.tensors))
    return ItemInput(
        name=item.name,
        weight_bytes=model.weight_bytes((item,), dtype, weight_format),
        shared_bytes=shared * dtype.itemsize,
        kv_bytes_per_token=item.kv_values_per_token * dtype.itemsize,
        flops_per_token=item.flops_per_token,
        shared={
            name: model.parameters[name] * dtype.itemsize
            for name in model.tensors((item,))
            if holders[name] > 1
        },
        width=0 if item in (model.embedding, model.head) else widest(model, item),
    )


def _trained(trained: Footprint, item: Item, plain: ItemInput) -> ItemInput:
    """The item with what training takes of it."""
    is_layer = item not in (trained.model.embedding, trained.model.head)
    return replace(
        plain,
        adapter_parameters=trained.adapter_parameters(item),
        activation_bytes=trained.working_bytes(item) if is_layer else 0,
        inflight_bytes=trained.inflight_bytes(item),
    )


def _device_input(asked: Asked, case: Case, single: _Single | None, at: int) -> DeviceInput:
    device, training = case.problem.devices[at], case.problem.training
    forward_s = [
        train_seconds(case.setting, item, case.rows.num_rows)[0]
        for item in asked.survey.speeds[at].items
    ]
    return DeviceInput(
        node=device.node,
        device=device.device,
        host=device.host,
        kind=asked.survey.devices[at].device.kind,
        pool=device.pool,
        memory_limit_bytes=device.memory_limit_bytes,
        baseline_bytes=device.baseline_bytes,
        item_s=tuple(case.problem.item_s[at].tolist()),
        forward_s=() if training is None else tuple(forward_s),
        decode_s=() if single is None else tuple(single.decode.item_s[at].tolist()),
        prefill_s=() if single is None else tuple(single.prefill.item_s[at].tolist()),
        update_s=() if training is None else tuple(training.update_s[at].tolist()),
    )


def _link_inputs(case: Case, single: _Single | None) -> tuple[LinkInput, ...]:
    problem = case.problem
    places = range(len(problem.devices))
    return tuple(
        LinkInput(
            sender=problem.devices[a].name,
            receiver=problem.devices[b].name,
            bytes_per_s=float(problem.link_bytes_per_s[a, b]),
            latency_s=float(problem.link_latency_s[a, b]),
            codec=case.codecs[a][b],
            frame_bytes=float(problem.frame_bytes[a, b]),
            gradient_bytes=float(problem.gradient_bytes[a, b]),
            return_latency_s=float(problem.home_latency_s[a, b]),
            decode=None if single is None else _sent(single.decode, a, b),
            prefill=None if single is None else _sent(single.prefill, a, b),
        )
        for a in places
        for b in places
        if a != b
    )


def _sent(problem: Problem, sender: int, receiver: int) -> SentInput:
    return SentInput(
        num_bytes=float(problem.frame_bytes[sender, receiver]),
        latency_s=float(problem.link_latency_s[sender, receiver]),
    )


def _frame_input(asked: Asked, case: Case, single: _Single | None) -> FrameInput:
    setting, traffic = case.setting, case.problem.traffic
    return FrameInput(
        num_rows=case.rows.num_rows,
        num_groups=setting.num_groups,
        num_chunks=setting.num_chunks,
        num_microbatches=setting.num_microbatches,
        return_bytes=traffic.return_bytes,
        exchange_bytes=traffic.exchange_bytes,
        fixed_s=float(case.problem.goal.seconds(0.0, 0.0)),
        prompt_tokens=asked.work.prompt,
        prompt_chunks=asked.work.num_chunks,
        decode_return_bytes=None if single is None else single.decode.traffic.return_bytes,
        asking_s=asked.asking_s,
    )
