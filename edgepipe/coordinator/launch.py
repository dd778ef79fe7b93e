"""From what the user asked for to a running pipeline: devices, model, plan, deployment."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgepipe.coordinator.deployment import Deployment, StagePlace
from edgepipe.coordinator.local import local_agents
from edgepipe.coordinator.models import Model, resolve
from edgepipe.coordinator.nodes import LOOPBACK_HOSTS, Node, Roster, Search, find_nodes, lan_hosts
from edgepipe.coordinator.parts import Part, build_parts, parts_for
from edgepipe.coordinator.pipeline import Pipeline, open_pipeline
from edgepipe.coordinator.progress import Progress
from edgepipe.coordinator.shape import model_shape
from edgepipe.core.frame import Codec, DType, JobId
from edgepipe.core.model import ModelShape
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.plan import Candidate, Objective, Strategy, plan, require_fit
from edgepipe.core.profile import Address, DeviceProfile, NodeState
from edgepipe.core.split import manual_split
from edgepipe.errors import PlanError

PREFILL_CHUNK = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which machines to use: private agents of this one, or those of a cluster.

    `local_mdns` has the private agents found over mDNS, on loopback, as others are.
    """

    home: Path
    cluster: str = "default"
    peers: tuple[Address, ...] = ()
    local: int | None = None
    threads: int | None = None
    slowdowns: tuple[float, ...] = ()
    local_mdns: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to cut the model, and what its stages hold and send. None means: choose."""

    objective: Objective = Objective.LATENCY
    strategy: Strategy | None = None
    num_stages: int | None = None
    nodes: tuple[str, ...] | None = None
    split: tuple[int, ...] | None = None
    pinned: Plan | None = None
    dtype: DType | None = None
    codec: Codec | None = None
    num_slots: int = 1
    prefill_chunk: int = PREFILL_CHUNK

    def resolved_strategy(self) -> Strategy:
        """`manual` where a split is given, else `equal`."""
        if self.strategy is not None:
            return self.strategy
        return Strategy.EQUAL if self.split is None else Strategy.MANUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A model that was found, and its sizes."""

    model: Model
    shape: ModelShape


async def prepare(name: str, *, home: Path) -> Prepared:
    """Find a model and read its sizes, off the event loop. Raises ModelError."""

    def work() -> Prepared:
        model = resolve(name, home=home)
        return Prepared(model=model, shape=model_shape(model.name, model.config, home=home))

    return await asyncio.to_thread(work)


@asynccontextmanager
async def open_cluster(where: Where) -> AsyncIterator[Roster]:
    """The nodes to use, started first where they are to be private ones."""
    async with AsyncExitStack() as stack:
        if where.local is None:
            search = Search(cluster=where.cluster, peers=where.peers, hosts=lan_hosts())
        else:
            search = await _start_local(where, where.local, stack)
        yield await stack.enter_async_context(find_nodes(search))


async def _start_local(where: Where, count: int, stack: AsyncExitStack) -> Search:
    agents = await stack.enter_async_context(
        local_agents(
            count,
            home=where.home,
            threads=where.threads,
            slowdowns=where.slowdowns,
            mdns=where.local_mdns,
        )
    )
    if not where.local_mdns:
        return Search(cluster=agents.name, peers=agents.peers)
    return Search(
        cluster=agents.name, hosts=LOOPBACK_HOSTS, enough=lambda found: len(found) >= count
    )


def candidates(roster: Roster) -> tuple[Candidate, ...]:
    """Every free device of the usable nodes."""
    return tuple(
        Candidate(node=node.profile.name, device=device)
        for node in roster.usable
        for device in node.profile.devices
        if device.lease is None
    )


def why_nobody(roster: Roster) -> str:
    """What is known of the nodes that cannot be used, for the error's sentence."""
    others = [
        f"{member.name}: {member.reason}"
        for member in roster.state.members.values()
        if member.state is not NodeState.ALIVE
    ]
    return "; ".join(others)


def check_split(how: How, shape: ModelShape) -> None:
    """Refuse a split that the model cannot have, before anything starts. Raises SplitError."""
    if how.split is not None:
        manual_split(shape.num_layers, how.split)


def make_plan(
    shape: ModelShape, devices: Sequence[Candidate], how: How, max_positions: int
) -> Plan:
    """Plan for the devices. Raises PlanError, SplitError or UsageError; may be infeasible."""
    return plan(
        shape,
        devices,
        strategy=how.resolved_strategy(),
        objective=how.objective,
        dtype=how.dtype or shape.dtype,
        num_slots=how.num_slots,
        max_positions=max_positions,
        prefill_chunk=how.prefill_chunk,
        num_stages=how.num_stages,
        nodes=how.nodes,
        split=how.split,
    )


async def weight_parts(
    prepared: Prepared, *, home: Path, progress: Callable[[int, int], None]
) -> tuple[Part, ...]:
    """The model's content-addressed parts; hashed off the event loop the first time."""

    def work() -> tuple[Part, ...]:
        return build_parts(
            prepared.model.tensors(), prepared.shape.parameters, home=home, progress=progress
        )

    return await asyncio.to_thread(work)


def deployment(
    prepared: Prepared, chosen: Plan, roster: Roster, parts: Sequence[Part], how: How
) -> Deployment:
    """What a plan puts on the nodes of a roster. Raises PlanError if a device is gone."""
    shape = prepared.shape
    places = [_find(roster, stage) for stage in chosen.stages]
    codecs = [
        how.codec or _codec(chosen.inputs.dtype, node, places[(index + 1) % len(places)][0])
        for index, (node, _) in enumerate(places)
    ]
    stages = tuple(
        _place(shape, stage, place, parts, codec)
        for stage, place, codec in zip(chosen.stages, places, codecs, strict=True)
    )
    return Deployment(
        job=JobId(secrets.token_hex(8)),
        epoch=1,
        stages=stages,
        engine="torch",
        config=prepared.model.config,
        dtype=chosen.inputs.dtype,
        hidden_size=shape.hidden_size,
        vocab_size=shape.vocab_size,
        num_slots=chosen.inputs.num_slots,
        num_groups=min(chosen.inputs.num_slots, len(stages)),
        max_positions=chosen.inputs.max_positions,
        prefill_chunk=chosen.inputs.prefill_chunk,
    )


def _find(roster: Roster, stage: Stage) -> tuple[Node, DeviceProfile]:
    for node in roster.usable:
        for device in node.profile.devices:
            if (node.profile.name, device.id) == (stage.node, stage.device):
                return node, device
    raise PlanError(f"the plan uses {stage.device} of {stage.node}, which is not here: plan anew")


def _codec(dtype: DType, here: Node, there: Node) -> Codec:
    """Between machines float32 is sent as bfloat16; on one machine as it is."""
    if dtype is not DType.FLOAT32 or here.profile.host_id == there.profile.host_id:
        return Codec.NONE
    return Codec.BF16


def _place(
    shape: ModelShape,
    stage: Stage,
    place: tuple[Node, DeviceProfile],
    parts: Sequence[Part],
    codec: Codec,
) -> StagePlace:
    items = shape.items(stage.first, stage.end, embedding=stage.embedding, head=stage.head)
    node, device = place
    return StagePlace(
        node=node.profile,
        device=device,
        first=stage.first,
        end=stage.end,
        embedding=stage.embedding,
        head=stage.head,
        parts=parts_for(parts, shape.tensors(items)),
        codec=codec,
    )


class Interface(Progress, Protocol):
    """What a person is shown on the way to a running model."""

    def hashing(self, done_bytes: int, total_bytes: int) -> None:
        """The model's files are read once, to name their parts; called from any thread."""
        ...

    def planned(self, chosen: Plan, roster: Roster) -> None:
        """A plan was made, for these nodes; it fits."""
        ...

    def deployed(self) -> None:
        """Every stage is loaded and connected."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A model on its devices."""

    plan: Plan
    pipeline: Pipeline


@asynccontextmanager
async def open_model(
    prepared: Prepared, where: Where, how: How, *, max_positions: int, interface: Interface
) -> AsyncIterator[Running]:
    """Find devices, plan, deploy; on leaving, give everything back.

    Raises PlanError where nothing is usable or the model does not fit, and whatever a stage
    fails with.
    """
    check_split(how, prepared.shape)
    hashing = asyncio.create_task(
        weight_parts(prepared, home=where.home, progress=interface.hashing)
    )
    try:
        async with open_cluster(where) as roster:
            chosen = _choose(prepared.shape, roster, how, max_positions)
            interface.planned(chosen, roster)
            deployed = deployment(prepared, chosen, roster, await hashing, how)
            async with open_pipeline(deployed, roster.nodes, interface) as pipeline:
                interface.deployed()
                yield Running(plan=chosen, pipeline=pipeline)
    finally:
        hashing.cancel()


def _choose(shape: ModelShape, roster: Roster, how: How, max_positions: int) -> Plan:
    devices = candidates(roster)
    if not devices and (why := why_nobody(roster)):
        raise PlanError(f"no device is usable: {why}")
    if how.pinned is None:
        chosen = make_plan(shape, devices, how, max_positions)
        require_fit(chosen)
        return chosen
    if how.pinned.model != shape.name or how.pinned.num_layers != shape.num_layers:
        raise PlanError(f"the plan is for {how.pinned.model}, not for {shape.name}: plan anew")
    if how.pinned.inputs.max_positions < max_positions:
        raise PlanError(
            f"the plan keeps {how.pinned.inputs.max_positions} tokens per sequence, "
            f"and {max_positions} are wanted: plan anew with --context {max_positions}"
        )
    return how.pinned
