"""From what the user asked for to a running pipeline: devices, model, plan, deployment."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import CancelledError
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from edgepipe.coordinator.deployment import Deployment, StagePlace
from edgepipe.coordinator.local import local_agents
from edgepipe.coordinator.nodes import LOOPBACK_HOSTS, Node, Roster, Search, find_nodes, lan_hosts
from edgepipe.coordinator.parts import Part, build_parts, parts_for
from edgepipe.coordinator.pipeline import Pipeline, open_pipeline
from edgepipe.coordinator.planned import Planned, Planning, plan_for
from edgepipe.coordinator.planning import (
    How,
    check_cut,
    explained,
)
from edgepipe.coordinator.prepared import Prepared
from edgepipe.coordinator.progress import Progress
from edgepipe.coordinator.surveying import Surveyed
from edgepipe.core.frame import JobId
from edgepipe.core.pipeline import Plan, Stage
from edgepipe.core.prediction import draft_cost
from edgepipe.core.profile import Address, DeviceProfile
from edgepipe.core.remedy import require_fit
from edgepipe.core.work import Objective
from edgepipe.errors import PlanError, first_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which machines to use: private agents of this one, or those of a cluster.

    Without `mdns` only `peers` are asked. `local_mdns` has the private agents found over mDNS, on
    loopback, as others are.
    """

    home: Path
    cluster: str = "default"
    peers: tuple[Address, ...] = ()
    mdns: bool = True
    local: int | None = None
    threads: int | None = None
    slowdowns: tuple[float, ...] = ()
    local_mdns: bool = False


@asynccontextmanager
async def open_cluster(where: Where) -> AsyncIterator[Roster]:
    """The nodes to use, started first where they are to be private ones."""
    async with searching(where) as search, find_nodes(search) as roster:
        yield roster


@asynccontextmanager
async def searching(where: Where) -> AsyncIterator[Search]:
    """Where to look for the nodes; private agents live until it is left."""
    async with AsyncExitStack() as stack:
        if where.local is None:
            hosts = lan_hosts() if where.mdns else ()
            yield Search(cluster=where.cluster, peers=where.peers, hosts=hosts)
        else:
            yield await _start_local(where, where.local, stack)


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


async def plan_model(
    prepared: Prepared, where: Where, how: How, *, max_positions: int, interface: Planning
) -> Planned:
    """Find devices and plan; nothing is deployed. Raises as `plan_for`."""
    async with open_cluster(where) as roster:
        return await plan_for(
            prepared,
            roster,
            how,
            max_positions=max_positions,
            home=where.home,
            interface=interface,
        )


async def weight_parts(
    prepared: Prepared, *, home: Path, progress: Callable[[int, int], None]
) -> tuple[Part, ...]:
    """The model's content-addressed parts, and its adapter's; hashed off the event loop.

    Once this is cancelled, its thread ends after the part that it is at.
    """
    is_over = threading.Event()

    def report(done_bytes: int, total_bytes: int) -> None:
        if is_over.is_set():
            raise CancelledError
        progress(done_bytes, total_bytes)

    def work() -> tuple[Part, ...]:
        adapter = prepared.adapter.parts(home) if prepared.adapter is not None else ()
        weights = build_parts(
            prepared.model.tensors(), prepared.shape.parameters, home=home, progress=report
        )
        return (*weights, *adapter)

    try:
        return await asyncio.to_thread(work)
    finally:
        is_over.set()


def new_job() -> JobId:
    """What leases and frames are marked with."""
    return JobId(secrets.token_hex(8))


def deployment(
    prepared: Prepared,
    chosen: Plan,
    roster: Roster,
    parts: Sequence[Part],
    how: How,
    *,
    job: JobId,
    epoch: int = 1,
) -> Deployment:
    """What a plan puts on the nodes of a roster. Raises PlanError if a device is gone."""
    places = [_find(roster, stage) for stage in chosen.stages]
    stages = tuple(
        replace(
            _place(prepared, stage, place, parts),
            codec=how.codec or stage.codec_forward,
            engine="torch" if how.objective is Objective.TRAIN else stage.engine,
            weight_format=weight_format,
        )
        for stage, place, weight_format in zip(
            chosen.stages, places, how.formats_of(chosen), strict=True
        )
    )
    return Deployment(
        job=job,
        epoch=epoch,
        stages=stages,
        config=prepared.model.config,
        dtype=chosen.inputs.dtype,
        hidden_size=prepared.shape.hidden_size,
        vocab_size=prepared.shape.vocab_size,
        num_slots=chosen.inputs.num_slots,
        num_groups=chosen.num_groups,
        max_positions=chosen.inputs.max_positions,
        prefill_chunk=chosen.inputs.prefill_chunk,
        max_draft=how.max_draft,
        draft_cost=_draft_cost(chosen),
    )


def _draft_cost(chosen: Plan) -> float:
    frame = chosen.inputs.frame
    if chosen.predicted is None or frame is None:
        return 0.0
    return draft_cost(chosen.predicted, frame.prompt_tokens / frame.prompt_chunks)


def _find(roster: Roster, stage: Stage) -> tuple[Node, DeviceProfile]:
    for node in roster.usable:
        for device in node.profile.devices:
            if (node.profile.name, device.id) == (stage.node, stage.device):
                return node, device
    missing = PlanError(
        f"the plan uses {stage.device} of {stage.node}, which is not here: plan anew"
    )
    raise explained(missing, roster)


def _place(
    prepared: Prepared,
    stage: Stage,
    place: tuple[Node, DeviceProfile],
    parts: Sequence[Part],
) -> StagePlace:
    items = prepared.shape.items(stage.first, stage.end, embedding=stage.embedding, head=stage.head)
    node, device = place
    return StagePlace(
        node=node.profile,
        device=device,
        first=stage.first,
        end=stage.end,
        embedding=stage.embedding,
        head=stage.head,
        parts=parts_for(parts, prepared.tensors(items)),
        codec=stage.codec_forward,
        options=prepared.options,
    )


class Interface(Progress, Planning, Protocol):
    """What a person is shown on the way to a running model."""

    def hashing(self, done_bytes: int, total_bytes: int) -> None:
        """The model's files are read once, to name their parts; called from any thread."""
        ...

    def planned(self, planned: Planned, roster: Roster) -> None:
        """A plan was made, for these nodes; it fits."""
        ...

    def deployed(self) -> None:
        """Every stage is loaded and connected."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A model on its devices; `surveyed` is None where the plan was given."""

    plan: Plan
    pipeline: Pipeline
    surveyed: Surveyed | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tailor:
    """What a job makes of what was planned before it is shown, and of its deployment."""

    plan: Callable[[Planned], Plan] = lambda planned: planned.plan
    deployment: Callable[[Deployment, Plan], Deployment] = lambda deployment, _plan: deployment


@asynccontextmanager
async def open_model(
    prepared: Prepared,
    where: Where,
    how: How,
    *,
    max_positions: int,
    interface: Interface,
    tailor: Tailor | None = None,
) -> AsyncIterator[Running]:
    """Find devices, plan, deploy; on leaving, give everything back.

    Raises PlanError where nothing is usable or the model does not fit, and whatever a stage
    fails with.
    """
    tailor = tailor or Tailor()
    check_cut(how, prepared.shape)
    reading = weight_parts(prepared, home=where.home, progress=interface.hashing)
    try:
        async with asyncio.TaskGroup() as tasks:  # damaged weights end the search for devices
            hashing = tasks.create_task(reading)
            async with open_cluster(where) as roster:
                parts = await hashing  # it would slow what is measured on this machine
                planned = await plan_for(
                    prepared,
                    roster,
                    how,
                    max_positions=max_positions,
                    home=where.home,
                    interface=interface,
                )
                planned = replace(planned, plan=tailor.plan(planned))
                require_fit(planned.plan)
                interface.planned(planned, roster)
                deployed = deployment(prepared, planned.plan, roster, parts, how, job=new_job())
                deployed = tailor.deployment(deployed, planned.plan)
                async with open_pipeline(deployed, roster.nodes, interface) as pipeline:
                    interface.deployed()
                    yield Running(plan=planned.plan, pipeline=pipeline, surveyed=planned.surveyed)
    except BaseExceptionGroup as failures:
        raise first_of(failures) from failures
