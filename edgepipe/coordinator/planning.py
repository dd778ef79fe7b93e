"""Planning for the machines that were found: what the user asked for, and what there is."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from edgepipe.coordinator.nodes import Roster
from edgepipe.core.candidates import Candidate, check_enough, in_order
from edgepipe.core.choosing import Progress
from edgepipe.core.fit import Workload
from edgepipe.core.frame import Codec, DType
from edgepipe.core.going import Going
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import check_strategy, plan
from edgepipe.core.posing import Asked
from edgepipe.core.profile import DeviceKind, NodeState
from edgepipe.core.split import equal_split, manual_split
from edgepipe.core.survey import Survey
from edgepipe.core.weight_format import WeightFormat
from edgepipe.core.work import DEFAULT_PROMPT_TOKENS, Batch, Objective, Strategy, Work
from edgepipe.errors import PlanError, SplitError, UsageError

PREFILL_CHUNK = 128
PREFILL_CHUNK_OF_CPUS = 64
"""A CPU is as fast with half as many rows, and a pipeline is full sooner (docs/LOG.md)."""
SEARCH_S = 30.0
"""Nobody waits a minute for a plan: what is not proven by then is its gap."""
MAX_REASONS = 8
"""Nodes that a sentence names; the others it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to cut the model, and what its stages hold and send. None means: choose.

    A `preferred` plan is taken where all of its devices are free, as by a run that is resumed.
    `weight_formats` are of all stages where there is one, else of each. At most `max_draft` tokens
    are guessed for a frame.
    """

    objective: Objective = Objective.LATENCY
    strategy: Strategy | None = None
    num_stages: int | None = None
    nodes: tuple[str, ...] | None = None
    split: tuple[int, ...] | None = None
    pinned: Plan | None = None
    preferred: Plan | None = None
    dtype: DType | None = None
    engine: str | None = None
    weight_formats: tuple[WeightFormat, ...] = ()
    codec: Codec | None = None
    codec_backward: Codec | None = None
    num_slots: int = 1
    max_draft: int = 0
    prefill_chunk: int | None = None
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS
    answer_tokens: int | None = None
    batch: Batch | None = None
    fresh_profile: bool = False

    def resolved_strategy(self) -> Strategy:
        """`manual` where a split is given, else `exact`."""
        if self.strategy is not None:
            return self.strategy
        return Strategy.EXACT if self.split is None else Strategy.MANUAL

    def as_planned(self, chosen: Plan) -> How:
        """With what the plan was made for, where the user has not said."""
        inputs = chosen.inputs
        return replace(self, dtype=inputs.dtype, prefill_chunk=inputs.prefill_chunk)

    @property
    def weight_format(self) -> WeightFormat | None:
        """What is planned with: the largest of all stages'."""
        return max(self.weight_formats, key=lambda each: each.bytes_of(1 << 10), default=None)

    def formats_of(self, chosen: Plan) -> tuple[WeightFormat | None, ...]:
        """Of each stage of a plan. Raises UsageError where the user named fewer or more."""
        count, named = len(chosen.stages), self.weight_formats
        if len(named) <= 1:
            return (chosen.inputs.weight_format,) * count
        if len(named) != count:
            raise UsageError(
                f"--weights names {len(named)} formats, and the plan has {count} stages: name one "
                "for all, or as many"
            )
        return named

    def engines_for(self, work: Work) -> tuple[str, ...]:
        """The engines that may do the work. ONNX Runtime does not train."""
        if work.objective is Objective.TRAIN:
            return ("torch",)
        return ("torch", "onnx") if self.engine is None else (self.engine,)

    def work(self, shape: ModelShape, max_positions: int) -> Work:
        """What a plan for the model is to do, with room for so many tokens of each sequence."""
        workload = Workload(
            dtype=self.dtype or shape.dtype,
            num_slots=self.num_slots,
            max_positions=max_positions,
            prefill_chunk=self.prefill_chunk or PREFILL_CHUNK,
            weight_format=self.weight_format,
        )
        trains = self.objective is Objective.TRAIN
        return Work(
            objective=self.objective,
            workload=workload,
            prompt_tokens=self.prompt_tokens,
            answer_tokens=self.answer_tokens,
            batch=(self.batch or Batch()) if trains else None,
        )


def candidates(roster: Roster) -> tuple[Candidate, ...]:
    """Every free device of the usable nodes."""
    return tuple(
        Candidate(node=node.profile.name, device=device, host=node.profile.host_id)
        for node in roster.usable
        for device in node.profile.devices
        if device.lease is None
    )


def computing(how: How, shape: ModelShape, devices: Sequence[Candidate]) -> How:
    """What is computed in, and with which engine, where the user has not said.

    ONNX Runtime computes in float32 on a CPU. Quantized weights are multiplied in float32 there,
    whatever the model's own dtype is.
    """
    on_cpus = all(
        each.device.kind is DeviceKind.CPU
        for each in devices
        if how.nodes is None or each.node in how.nodes
    )
    small = how.weight_format in {WeightFormat.INT8, WeightFormat.INT4}
    dtype = how.dtype
    if dtype is None and on_cpus and (small or how.engine == "onnx"):
        dtype = DType.FLOAT32
    floats = (dtype or shape.dtype) is DType.FLOAT32
    engine = how.engine
    if engine is None and on_cpus and not floats:
        engine = "torch"
    chunk = how.prefill_chunk or (PREFILL_CHUNK_OF_CPUS if on_cpus else PREFILL_CHUNK)
    return replace(how, dtype=dtype, engine=engine, prefill_chunk=chunk)


def check_cut(how: How, shape: ModelShape) -> None:
    """Refuse a cut that the model cannot have, before anything starts.

    Raises SplitError, PlanError for more stages than layers, and UsageError for a strategy that
    does not go with the split.
    """
    if how.pinned is None:
        check_strategy(how.resolved_strategy(), how.split)
    if how.split is not None:
        manual_split(shape.num_layers, how.split)
        _check_count(how, len(how.split) + 1)
    elif how.num_stages is not None:
        equal_split(shape.num_layers, how.num_stages)


def _check_count(how: How, found: int) -> None:
    """Raises SplitError for a split into other than the stages that are asked for.

    A node may have several devices, so that fewer nodes than stages may do.
    """
    if how.num_stages is not None and how.num_stages != found:
        raise SplitError(
            f"the split makes {found} stages, and {how.num_stages} are asked for: "
            "leave out one of the two"
        )
    if how.num_stages is None and how.nodes is not None and len(how.nodes) > found:
        raise SplitError(
            f"the split makes {found} stages for {len(how.nodes)} nodes: name as many, or leave "
            "out one of the two"
        )


def check_usable(roster: Roster, how: How) -> None:
    """Raises PlanError or UsageError where no plan can be made, before anything is measured."""
    devices = candidates(roster)
    if not devices and (why := why_not(roster)):
        raise PlanError(f"no device is usable: {why}")
    try:
        check_enough(in_order(devices, how.nodes), _num_stages(how))
    except PlanError as error:
        raise explained(error, roster) from None


def _num_stages(how: How) -> int:
    """The stages that were asked for; 1 where the planner is free, or has names to check first."""
    if how.num_stages is not None or how.split is None or how.nodes is not None:
        return how.num_stages or 1
    return len(how.split) + 1


def make_plan(
    shape: ModelShape,
    survey: Survey,
    how: How,
    max_positions: int,
    progress: Progress = lambda _done, _total: None,
) -> Plan:
    """Plan for the devices of a survey. Raises PlanError, SplitError or UsageError; may not fit.

    It may compute for a minute: call it in a thread.
    """
    return plan(
        asked_of(shape, survey, how, max_positions),
        strategy=how.resolved_strategy(),
        split=how.split,
        progress=progress,
        going=for_seconds(SEARCH_S),
    )


def for_seconds(seconds: float) -> Going:
    """Going on for so long from now."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() < end_s


def asked_of(shape: ModelShape, survey: Survey, how: How, max_positions: int) -> Asked:
    """All that a plan is made from. Raises PlanError or UsageError for nodes not in the survey."""
    return Asked.of(
        shape,
        survey,
        how.work(shape, max_positions),
        nodes=how.nodes,
        num_stages=how.num_stages,
        codec=how.codec,
        codec_backward=how.codec_backward,
    )


def takes(plan: Plan, roster: Roster) -> bool:
    """Whether every device of a plan is here and free."""
    free = {(each.node, each.device.id) for each in candidates(roster)}
    return free.issuperset((stage.node, stage.device) for stage in plan.stages)


def explained(error: PlanError, roster: Roster) -> PlanError:
    """The error, with what is known of the nodes and devices that cannot be used."""
    why = why_not(roster)
    return PlanError(f"{error} ({why})") if why else error


def why_not(roster: Roster) -> str:
    """Why nodes and devices cannot be used; "" where all can be."""
    reasons = list(_not_usable(roster))
    more = len(reasons) - MAX_REASONS
    return "; ".join([*reasons[:MAX_REASONS], f"and {more} more"] if more > 0 else reasons)


def _not_usable(roster: Roster) -> Iterator[str]:
    for member in sorted(roster.state.members.values(), key=lambda member: member.name):
        devices = member.profile.devices if member.profile is not None else ()
        if member.state is not NodeState.ALIVE:
            yield f"{member.name}: {member.reason}"
        elif not devices:
            yield f"{member.name}: its worker is being started, try again in a moment"
        for device in devices:
            if member.state is NodeState.ALIVE and device.lease is not None:
                lease = device.lease
                yield f"{member.name}: {device.id} is leased to job {lease.job} of {lease.holder}"
