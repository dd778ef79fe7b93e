"""Which device runs which layers, and whether they fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from edgepipe.core.candidates import Candidate, check_enough, choose, in_order
from edgepipe.core.fit import (
    Claim,
    Shortage,
    Workload,
    short_by_bytes,
    shortages,
    stage_memory,
)
from edgepipe.core.frame import DType
from edgepipe.core.inputs import inputs
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import LeftOut, Objective, Plan, Stage, Strategy
from edgepipe.core.size import human_size
from edgepipe.core.split import LayerRange, equal_split, manual_split
from edgepipe.errors import DoesNotFit, SplitError, UsageError

__all__ = [
    "Candidate",
    "LeftOut",
    "Objective",
    "Plan",
    "Stage",
    "Strategy",
    "plan",
    "require_fit",
]


def plan(
    model: ModelShape,
    devices: Sequence[Candidate],
    *,
    strategy: Strategy,
    objective: Objective,
    dtype: DType,
    num_slots: int,
    max_positions: int,
    prefill_chunk: int,
    num_stages: int | None = None,
    nodes: Sequence[str] | None = None,
    split: Sequence[int] | None = None,
) -> Plan:
    """Share the model's layers out to devices, one stage each, and check that they fit.

    Args:
        model: what is placed.
        devices: every device that may be used; those not used are listed as left out.
        strategy: `equal` gives every stage as many layers as can be; `manual` takes `split`.
        objective: noted in the plan.
        dtype: of weights and KV cache.
        num_slots: sequences held at once.
        max_positions: tokens held of each.
        prefill_chunk: prompt tokens in one frame.
        num_stages: exactly so many; `equal` then takes the devices with the most usable memory.
        nodes: these, in this order; otherwise all, by name. A node gives all its devices.
        split: for `manual`, the layers at which a new stage begins.

    Raises:
        SplitError: the split does not rise inside the model, or does not match the devices.
        UsageError: a strategy without what it needs, or a node named twice.
        PlanError: fewer devices or layers than stages, or a node that is not here.
    """
    workload = Workload(
        dtype=dtype,
        num_slots=num_slots,
        max_positions=max_positions,
        prefill_chunk=prefill_chunk,
    )
    ordered = in_order(devices, nodes)
    match strategy:
        case Strategy.EQUAL:
            chosen = _equal_devices(ordered, num_stages, nodes, split, model.num_layers)
            ranges = equal_split(model.num_layers, len(chosen))
        case Strategy.MANUAL:
            ranges = _manual_ranges(model.num_layers, split)
            chosen = _manual_devices(ordered, len(ranges), num_stages, nodes)
        case _:
            assert_never(strategy)
    stages = _stages(model, chosen, ranges, workload)
    claims = _claims(stages, devices)
    return Plan(
        model=model.name,
        objective=objective,
        strategy=strategy,
        feasible=not shortages(claims),
        short_by_bytes=short_by_bytes(claims),
        stages=stages,
        left_out=_left_out(devices, ordered, chosen),
        shortages=shortages(claims),
        inputs=inputs(model, devices, workload),
    )


def _equal_devices(
    ordered: Sequence[Candidate],
    num_stages: int | None,
    nodes: Sequence[str] | None,
    split: Sequence[int] | None,
    num_layers: int,
) -> tuple[Candidate, ...]:
    if split is not None:
        raise UsageError("a split needs the strategy manual: leave out --split or --strategy equal")
    return choose(ordered, num_stages=num_stages, num_layers=num_layers, exactly=nodes is not None)


def _manual_ranges(num_layers: int, split: Sequence[int] | None) -> tuple[LayerRange, ...]:
    if split is None:
        raise UsageError("the strategy manual needs --split, as in --split 10,20")
    return manual_split(num_layers, split)


def _manual_devices(
    ordered: Sequence[Candidate],
    count: int,
    num_stages: int | None,
    nodes: Sequence[str] | None,
) -> tuple[Candidate, ...]:
    """One device for each range, the first ones; those asked for by name or number must match."""
    wanted = num_stages if num_stages is not None else len(ordered) if nodes is not None else count
    if wanted != count:
        raise SplitError(
            f"the split makes {count} stages for {wanted} devices: "
            "it must name one layer fewer than there are devices"
        )
    check_enough(ordered, count)
    return tuple(ordered[:count])


def _stages(
    model: ModelShape,
    chosen: Sequence[Candidate],
    ranges: Sequence[LayerRange],
    workload: Workload,
) -> tuple[Stage, ...]:
    last = len(chosen) - 1
    return tuple(
        _stage(model, candidate, layers, workload, embedding=at == 0, head=at == last)
        for at, (candidate, layers) in enumerate(zip(chosen, ranges, strict=True))
    )


def _stage(
    model: ModelShape,
    candidate: Candidate,
    layers: LayerRange,
    workload: Workload,
    *,
    embedding: bool,
    head: bool,
) -> Stage:
    items = model.items(*layers, embedding=embedding, head=head)
    memory = stage_memory(model, items, workload)
    baseline = candidate.device.baseline_bytes
    return Stage(
        node=candidate.node,
        device=candidate.device.id,
        first=layers[0],
        end=layers[1],
        embedding=embedding,
        head=head,
        memory_bytes=baseline + memory.total_bytes,
        memory_limit_bytes=candidate.device.memory_limit_bytes,
        baseline_bytes=baseline,
        weight_bytes=memory.weight_bytes,
        kv_bytes=memory.kv_bytes,
        workspace_bytes=memory.workspace_bytes,
    )


def _claims(stages: Sequence[Stage], devices: Sequence[Candidate]) -> tuple[Claim, ...]:
    """What every device will hold; one without a stage still holds its idle worker."""
    wanted = {(stage.node, stage.device): stage.memory_bytes for stage in stages}
    return tuple(
        Claim(
            node=candidate.node,
            device=candidate.device.id,
            pool=candidate.device.pool,
            memory_bytes=wanted.get(candidate.key, candidate.device.baseline_bytes),
            limit_bytes=candidate.device.memory_limit_bytes,
            idle=candidate.key not in wanted,
        )
        for candidate in devices
    )


def _left_out(
    devices: Sequence[Candidate], ordered: Sequence[Candidate], chosen: Sequence[Candidate]
) -> tuple[LeftOut, ...]:
    used, named = ({candidate.key for candidate in group} for group in (chosen, ordered))
    few = f"the plan has {len(chosen)} stage{'s' if len(chosen) > 1 else ''}"
    return tuple(
        LeftOut(
            node=candidate.node,
            device=candidate.device.id,
            reason=few if candidate.key in named else "its node was not named",
        )
        for candidate in devices
        if candidate.key not in used
    )


def require_fit(plan: Plan) -> None:
    """Raises DoesNotFit where memory is short: how much is missing, where, and what would help."""
    if plan.feasible:
        return
    missing = ", ".join(_missing(shortage) for shortage in plan.shortages)
    raise DoesNotFit(
        f"{plan.model} needs {missing}; {_remedy(plan)}", short_by_bytes=plan.short_by_bytes
    )


def _missing(shortage: Shortage) -> str:
    more, needed, limit = (
        human_size(size)
        for size in (shortage.short_by_bytes, shortage.needed_bytes, shortage.limit_bytes)
    )
    place = f"{shortage.node} ({' and '.join(shortage.devices)})"
    return f"{more} more on {place}: {needed} of {limit}"


def _remedy(plan: Plan) -> str:
    """Slots and context help only where the weights alone would fit."""
    if all(_weights_fit(plan, shortage) for shortage in plan.shortages):
        return "fewer slots, a shorter context, or another machine would help"
    return "another machine or a smaller dtype would help"


def _weights_fit(plan: Plan, shortage: Shortage) -> bool:
    spare = sum(
        stage.kv_bytes + stage.workspace_bytes
        for stage in plan.stages
        if stage.node == shortage.node and stage.device in shortage.devices
    )
    return spare >= shortage.short_by_bytes
