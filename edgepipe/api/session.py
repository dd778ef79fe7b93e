"""What a connected program can do, as coroutines of the background loop.

One model is held open at a time: whatever else wants the devices has them given back first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from edgepipe.api.held import HeldModel
from edgepipe.api.quiet import Quiet, Steps
from edgepipe.coordinator.answer_wish import Wish
from edgepipe.coordinator.context import context_of
from edgepipe.coordinator.generation import Answer, ask, generate
from edgepipe.coordinator.known import known_speeds
from edgepipe.coordinator.launch import Where, open_cluster, plan_model
from edgepipe.coordinator.local import local_agents
from edgepipe.coordinator.node_rows import NodeRow, node_rows
from edgepipe.coordinator.planning import How, check_cut
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.profiles import Profiles
from edgepipe.coordinator.schedule_file import read_wish
from edgepipe.coordinator.step_metrics import StepMetrics
from edgepipe.coordinator.text import Message, Tokenizer
from edgepipe.coordinator.train_asking import configured
from edgepipe.coordinator.train_config import TrainConfig
from edgepipe.coordinator.train_job import Trained, train
from edgepipe.core.pipeline import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWish:
    """A model, and how it is to be held: two that are equal can share a pipeline."""

    name: str
    adapter: Path | None
    how: How
    context: int | None


@dataclass(slots=True, kw_only=True)
class Answering:
    """An answer that is about to be generated: `pieces` of its text fill `answer`."""

    model: HeldModel
    answer: Answer
    pieces: AsyncGenerator[str, None]

    async def next_piece(self) -> str | None:
        """The next piece that is not empty; None at the end. Raises what broke the pipeline."""
        return await self.model.during(self._next_piece())

    async def _next_piece(self) -> str | None:
        async for piece in self.pieces:
            if piece:
                return piece
        return None


@dataclass(slots=True, kw_only=True)
class Session:
    """Made by `begin`; `where` is peers alone once private agents run."""

    where: Where
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _wish: ModelWish | None = None
    _model: HeldModel | None = None
    _answering: Answering | None = None

    async def begin(self) -> None:
        """Start the private agents, where there are to be some. Raises NodeError."""
        where = self.where
        if where.local is None:
            return
        agents = await self._stack.enter_async_context(
            local_agents(
                where.local, home=where.home, threads=where.threads, slowdowns=where.slowdowns
            )
        )
        self.where = Where(home=where.home, cluster=agents.name, peers=agents.peers, mdns=False)

    async def nodes(self) -> tuple[NodeRow, ...]:
        """Who is here."""
        async with open_cluster(self.where) as roster:
            profiles = [node.profile for node in roster.usable]
            speeds = known_speeds(Profiles(home=self.where.home), profiles)
            return tuple(node_rows(roster, speeds))

    async def plan(self, wish: ModelWish) -> Plan:
        """A plan, which may not fit. Raises ModelError, PlanError, UsageError."""
        await self.put_down()
        prepared = await prepare(wish.name, home=self.where.home)
        check_cut(wish.how, prepared.shape)
        planned = await plan_model(
            prepared,
            self.where,
            wish.how,
            max_positions=context_of(wish.context, prepared.shape.max_positions),
            interface=Quiet(),
        )
        return planned.plan

    async def answer(
        self, wish: ModelWish, prompt: str | Sequence[Message], sampling: Wish, *, raw: bool
    ) -> Answering:
        """Open the model unless it is open, and ask it. An answer before that has not ended ends.

        Raises what keeps the model from opening, and PromptTooLong.
        """
        await self._end_answer()
        model = await self._opened(wish)
        prompt_ids = await asyncio.to_thread(_prompt_ids, model.tokenizer, prompt, raw=raw)
        model.num_answers += 1
        answer = ask(
            model.tokenizer,
            sampling.asked(
                model.prepared.model, prompt_ids, model.max_positions, model.num_answers
            ),
        )
        self._answering = Answering(
            model=model, answer=answer, pieces=generate(model.running.pipeline, answer)
        )
        return self._answering

    async def train(
        self,
        config: TrainConfig,
        how: How,
        *,
        resume: Path | None,
        tell: Callable[[StepMetrics], None],
    ) -> Trained:
        """Train a run. Raises as `train_job.train`."""
        await self.put_down()
        return await train(
            config,
            self.where,
            configured(how, config.plan),
            wish=read_wish(str(config.plan.schedule), "[plan] schedule"),
            resume=resume,
            interface=Steps(tell),
        )

    async def put_down(self) -> None:
        """Give back the devices of the model that is open, if one is."""
        await self._end_answer()
        model, self._model, self._wish = self._model, None, None
        if model is not None:
            await model.close()

    async def end(self) -> None:
        """Give everything back; private agents end."""
        try:
            await self.put_down()
        finally:
            await self._stack.aclose()

    async def _end_answer(self) -> None:
        answering, self._answering = self._answering, None
        if answering is not None:
            await answering.pieces.aclose()

    async def _opened(self, wish: ModelWish) -> HeldModel:
        if self._model is not None and self._model.is_open and self._wish == wish:
            return self._model
        await self.put_down()
        prepared = await prepare(wish.name, home=self.where.home, adapter=wish.adapter)
        check_cut(wish.how, prepared.shape)
        model = HeldModel(
            prepared=prepared,
            tokenizer=await asyncio.to_thread(prepared.model.tokenizer),
            max_positions=context_of(wish.context, prepared.shape.max_positions),
        )
        await model.hold(self.where, wish.how)
        self._model, self._wish = model, wish
        return model


def _prompt_ids(tokenizer: Tokenizer, prompt: str | Sequence[Message], *, raw: bool) -> list[int]:
    if isinstance(prompt, str):
        return tokenizer.prompt_ids(prompt, raw=raw)
    return tokenizer.chat_ids(prompt)
