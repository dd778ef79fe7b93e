"""One pipeline after another for a server that outlives them: the shell of edgepipe.core.standing.

A life is a look at who is here, a plan, and the pipeline that is deployed by it. One stands; beside
it another may be planned, over the same devices and those that joined.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, assert_never

import structlog

from edgepipe.coordinator.borrowing import Held
from edgepipe.coordinator.deployment import Deployment
from edgepipe.coordinator.launch import (
    Interface,
    Running,
    Where,
    deployment,
    new_job,
    searching,
    weight_parts,
)
from edgepipe.coordinator.lookout import ANSWER_S, LOOK_S, Lookout
from edgepipe.coordinator.nodes import DESCRIBE_DEADLINE_S, Roster, Search
from edgepipe.coordinator.parts import Part
from edgepipe.coordinator.pins import fallbacks, pins_of
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.coordinator.planned import Planned, plan_for
from edgepipe.coordinator.planning import How, candidates
from edgepipe.coordinator.prepared import Prepared
from edgepipe.core.frame import JobId
from edgepipe.core.holding import Holding
from edgepipe.core.pipeline import Plan
from edgepipe.core.prediction import figure_s
from edgepipe.core.remedy import require_fit
from edgepipe.core.standing import (
    Admit,
    BackOff,
    Close,
    Closed,
    Devices,
    Drop,
    Event,
    Found,
    Hold,
    Instruction,
    Loaded,
    Looked,
    Lost,
    MakePlan,
    Missing,
    NotFound,
    Offer,
    Open,
    Opened,
    Standing,
    Started,
    Waited,
    Why,
    back_off_s,
)
from edgepipe.errors import EdgepipeError, PlanError, UsageError, first_of

MOVING = "it moves to a better plan"
BROKE = "the pipeline broke"

_log = structlog.get_logger(__name__)


class Tenant(Protocol):
    """Who uses the pipelines: one at a time, and none in between."""

    def reports_to(self, loaded: Callable[[int], None]) -> None:
        """Call `loaded` with the number of sequences that run, whenever it changes."""
        ...

    def opened(self, running: Running, why: Why) -> None:
        """There is a pipeline; `admit` follows."""
        ...

    def admit(self) -> None:
        """Start sequences."""
        ...

    def hold(self) -> None:
        """Start none for now; those that run go on."""
        ...

    def missing(self, reason: str) -> None:
        """There is no pipeline: what runs is over. Called again as the reason changes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What is to stand: a model with room for `max_positions` of each sequence."""

    prepared: Prepared
    how: How
    max_positions: int
    where: Where


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """A plan, and its deployment; `refused` says why it is not as it was asked for."""

    planned: Planned
    deployment: Deployment
    refused: EdgepipeError | None


@dataclass(slots=True, kw_only=True)
class _Life:
    why: Why
    interface: Interface
    seen: Devices = frozenset()
    is_found: bool = False
    is_wanted: asyncio.Event = field(default_factory=asyncio.Event)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    running: Running | None = None
    task: asyncio.Task[None] | None = None

    @property
    def held(self) -> Held:
        """The devices of its stages, and the fences of their leases."""
        if self.running is None:
            return {}
        stages, pipeline = self.running.plan.stages, self.running.pipeline
        return {(each.node, each.device): pipeline.fence(at) for at, each in enumerate(stages)}

    def cancel(self) -> None:
        """End it, wherever it is."""
        if self.task is not None:
            self.task.cancel()


@asynccontextmanager
async def standing(
    wish: Wish,
    tenant: Tenant,
    *,
    interface: Callable[[Why], Interface],
    tell: Callable[[str], None],
) -> AsyncIterator[Running]:
    """Pipelines for a tenant until it is left; the first one stands from the beginning.

    Args:
        wish: what is to stand.
        tenant: who uses it.
        interface: what a person is shown on the way to a pipeline.
        tell: says a sentence to the operator.

    Raises what keeps the first pipeline from standing; from then on it only tells.
    """
    async with searching(wish.where) as search:
        try:
            async with asyncio.TaskGroup() as tasks:
                keeper = _Keeper(
                    wish=wish,
                    tenant=tenant,
                    interface=interface,
                    tell=tell,
                    tasks=tasks,
                    lookout=_lookout(search, job := new_job()),
                    job=job,
                    how=wish.how,
                )
                try:
                    yield await keeper.start()
                finally:
                    keeper.stop()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from failures


def _lookout(search: Search, job: JobId) -> Lookout:
    return Lookout(search=search, holding=Holding(job=job))


@dataclass(slots=True, kw_only=True)
class _Keeper:
    """Carries out what the core decides; `how` is the user's, as far as it was chosen by now."""

    wish: Wish
    tenant: Tenant
    interface: Callable[[Why], Interface]
    tell: Callable[[str], None]
    tasks: asyncio.TaskGroup
    lookout: Lookout
    job: JobId
    how: How
    _standing: Standing = field(default_factory=Standing)
    _events: deque[Event] = field(default_factory=deque)
    _first: asyncio.Future[Running] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    _parts: asyncio.Task[tuple[Part, ...]] | None = None
    _life: _Life | None = None
    _beside: _Life | None = None
    _watching: list[asyncio.Task[None]] = field(default_factory=list)
    _waiting: asyncio.TimerHandle | None = None
    _epoch: int = 0
    _given_up: str = ""

    async def start(self) -> Running:
        """The first pipeline, once it stands. Raises what it fails with."""
        self.tenant.reports_to(self._loaded)
        self._post(Started(now_s=_now()))
        running = await self._first
        self._watching = [
            self.tasks.create_task(self.lookout.watch()),
            self.tasks.create_task(self._look_around()),
        ]
        return running

    def stop(self) -> None:
        """End everything."""
        if self._waiting is not None:
            self._waiting.cancel()
        for life in (self._beside, self._life):
            if life is not None:
                life.cancel()
        for task in self._watching:
            task.cancel()

    # ------------------------------------------------------------------------------ decisions

    def _post(self, event: Event) -> None:
        """Let the core decide, and carry out what it says before anything else is decided."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            for instruction in self._standing.handle(self._events[0]):
                self._carry_out(instruction)
            self._events.popleft()

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case MakePlan(why=why):
                self._begin(why)
            case Open():
                self._open()
            case Drop():
                self._drop()
            case Close():
                assert self._life is not None, "what is closed stands"
                self._life.is_over.set()
            case Hold():
                self.tenant.hold()
            case Admit():
                self.tenant.admit()
            case BackOff(attempt=attempt):
                wait_s = back_off_s(attempt, random.random())  # noqa: S311
                self._waiting = asyncio.get_running_loop().call_later(wait_s, self._waited)
            case Missing(reason=reason, is_news=is_news):
                self.tenant.missing(reason)
                if is_news:
                    self.tell(f"No pipeline, planning anew: {reason}")
            case _:
                assert_never(instruction)

    def _begin(self, why: Why) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        life = _Life(why=why, interface=self.interface(why))
        if self._life is None:
            self._life = life
        else:
            self._beside = life
        life.task = self.tasks.create_task(self._live(life))

    def _open(self) -> None:
        if self._life is None:
            self._life, self._beside = self._beside, None
        assert self._life is not None, "what is opened was found"
        self._life.is_wanted.set()

    def _drop(self) -> None:
        assert self._beside is not None, "what is dropped was planned beside"
        self._beside.cancel()
        self._beside = None

    def _loaded(self, num_running: int) -> None:
        self._post(Loaded(num_running=num_running, now_s=_now()))

    def _waited(self) -> None:
        self._post(Waited(now_s=_now()))

    async def _look_around(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            async with self.lookout.look() as roster:
                self._post(Looked(devices=_devices(roster), now_s=_now()))

    # --------------------------------------------------------------------------------- a life

    async def _live(self, life: _Life) -> None:
        try:
            await self._find_and_stand(life)
        except Exception as error:  # noqa: BLE001 -- a task's top: what is no error of ours is logged
            if not self._first.done():
                self._first.set_exception(error)
                return
            if not isinstance(error, EdgepipeError):  # a server stands up after its own faults too
                _log.exception("a pipeline failed")
            self._over(life)
            self._post(_failed(life, _sentence(error)))
        else:
            self._over(life)
            self._post(Closed(now_s=_now()))
        finally:
            life.interface.deployed()

    def _over(self, life: _Life) -> None:
        if self._life is life:
            self._life = None
        if self._beside is life:
            self._beside = None

    async def _find_and_stand(self, life: _Life) -> None:
        """Raises EdgepipeError where there is no plan, or where the pipeline breaks."""
        parts = await self._hashed(life)
        patience_s = DESCRIBE_DEADLINE_S if life.why is Why.STARTED else ANSWER_S
        async with self.lookout.look(answer_s=patience_s) as roster:
            life.seen = _devices(roster)
            made = await self._make(roster, life, parts)
            life.is_found = True
            self._post(Found(offer=_offer(made, life.seen), now_s=_now()))
            await life.is_wanted.wait()
            await self._stand(life, roster, made)

    async def _hashed(self, life: _Life) -> tuple[Part, ...]:
        """The model's parts: the first time, their files are read while nodes are searched for."""
        if self._parts is None:
            home, hashing = self.wish.where.home, life.interface.hashing
            reading = weight_parts(self.wish.prepared, home=home, progress=hashing)
            self._parts = self.tasks.create_task(reading)
            await self.lookout.search_first()
        return await asyncio.shield(self._parts)

    async def _make(self, roster: Roster, life: _Life, parts: tuple[Part, ...]) -> _Made:
        """A plan as it was asked for, else, after a loss, as close to that as can be had.

        Raises PlanError or UsageError.
        """
        held = self._life.held if self._life is not None and life is self._beside else {}
        try:
            return await self._planned(roster, self.how, life, parts, held)
        except (PlanError, UsageError) as error:
            if life.why is Why.STARTED:
                raise
            refused = failure = error
        nodes = [each.node for each in candidates(roster)]
        for how in fallbacks(self.how, nodes):
            try:
                made = await self._planned(roster, how, life, parts, held)
            except (PlanError, UsageError) as error:
                failure = error
            else:
                return replace(made, refused=refused)
        raise failure

    async def _planned(
        self, roster: Roster, how: How, life: _Life, parts: tuple[Part, ...], held: Held
    ) -> _Made:
        planned = await plan_for(
            self.wish.prepared,
            roster,
            how,
            max_positions=self.wish.max_positions,
            home=self.wish.where.home,
            interface=life.interface,
            held=held,
        )
        require_fit(planned.plan)
        deployed = deployment(
            self.wish.prepared, planned.plan, roster, parts, how, job=self.job, epoch=0
        )
        return _Made(planned=planned, deployment=deployed, refused=None)

    async def _stand(self, life: _Life, roster: Roster, made: _Made) -> None:
        """Deploy, and stand until it is over. Raises what a stage fails with."""
        self._epoch += 1
        deployed = replace(made.deployment, epoch=self._epoch)
        for stage in deployed.stages:
            self.lookout.holding = self.lookout.holding.and_uses(stage.node.id, stage.device)
        life.interface.planned(made.planned, roster)
        plan = made.planned.plan
        async with open_pipeline(deployed, roster.nodes, life.interface) as pipeline:
            life.interface.deployed()
            life.running = Running(plan=plan, pipeline=pipeline, surveyed=made.planned.surveyed)
            self._tell_of(life.why, made)
            self.tenant.opened(life.running, life.why)
            if not self._first.done():
                self.how = replace(self.how.as_planned(plan), fresh_profile=False)
                self._first.set_result(life.running)
            self._post(Opened(now_s=_now()))
            try:
                await life.is_over.wait()
            finally:
                self.tenant.missing(MOVING if life.is_over.is_set() else BROKE)

    def _tell_of(self, why: Why, made: _Made) -> None:
        """Say what stands now, and what of the user's wishes was given up for it."""
        pins = pins_of(self.how)
        given_up = "" if made.refused is None else f"{pins} is given up: {made.refused}"
        if given_up and given_up != self._given_up:
            self.tell(given_up)
        self._given_up = given_up
        match why:
            case Why.STARTED:
                return
            case Why.LOST:
                self.tell(f"Serving again: {_stages(made.planned.plan)}")
            case Why.JOINED:
                self.tell(f"Moved to a better plan: {_stages(made.planned.plan)}")
            case _:
                assert_never(why)


def _devices(roster: Roster) -> Devices:
    return frozenset((each.node, str(each.device.id)) for each in candidates(roster))


def _failed(life: _Life, reason: str) -> Lost | NotFound:
    if life.is_found:
        return Lost(reason=reason, now_s=_now())
    return NotFound(reason=reason, considered=life.seen, now_s=_now())


def _offer(made: _Made, seen: Devices) -> Offer:
    plan = made.planned.plan
    predicted = plan.predicted
    return Offer(
        used=frozenset((stage.node, stage.device) for stage in plan.stages),
        considered=seen,
        as_asked=made.refused is None,
        seconds=None if predicted is None else figure_s(plan.objective, predicted),
    )


def _stages(plan: Plan) -> str:
    return ", ".join(
        f"{stage.node} ({stage.device}) [{stage.first}, {stage.end})" for stage in plan.stages
    )


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, EdgepipeError) else "a fault of edgepipe, see the log"


def _now() -> float:
    return asyncio.get_running_loop().time()
