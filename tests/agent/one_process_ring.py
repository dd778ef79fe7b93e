"""A ring of real runners, links, threads and engines in one process."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from edgepipe.agent import deploy
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.runner import Outcome, PromptLogits, Runner
from edgepipe.core.frame import Codec, DType, JobId, SampledToken, SequenceId
from edgepipe.core.sampling import Sampling
from edgepipe.core.stage import Admission
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.emulated import EmulatedEngine
from edgepipe.transport import inproc
from edgepipe.transport.link import Link
from edgepipe.wire.v1 import frame_pb2, stage_pb2

DEADLINE_S = 30
JOB, EPOCH = JobId("job"), 3
CPU = torch.device("cpu")


@dataclass
class Ring:
    """Runners in ring order; `outcomes` is what the last one emitted, per sequence."""

    runners: list[Runner] = field(default_factory=list)
    outcomes: dict[int, asyncio.Queue[SampledToken | PromptLogits]] = field(
        default_factory=lambda: defaultdict(asyncio.Queue)
    )

    def admit(
        self,
        sequence: int,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | None = None,
        eos_ids: Sequence[int] = (),
        prompt_logits: bool = False,
    ) -> None:
        """Tell the last stage, then the first, as a coordinator does."""
        admission = Admission(
            sequence=SequenceId(sequence),
            prompt_length=len(prompt),
            sampling=sampling or Sampling(),
            max_tokens=max_tokens,
            eos_ids=frozenset(eos_ids),
            prompt_logits=prompt_logits,
        )
        for runner in self._ends():
            runner.admit(admission, prompt)

    def cancel(self, sequence: int) -> None:
        for runner in self._ends():
            runner.cancel(SequenceId(sequence))

    def _ends(self) -> list[Runner]:
        return self.runners if len(self.runners) == 1 else [self.runners[-1], self.runners[0]]

    async def next(self, sequence: int) -> SampledToken | PromptLogits:
        async with asyncio.timeout(DEADLINE_S):
            return await self.outcomes[sequence].get()

    async def tokens(self, sequence: int) -> list[SampledToken]:
        """All tokens of a sequence, to its end."""
        tokens: list[SampledToken] = []
        while not tokens or tokens[-1].finish is None:
            outcome = await self.next(sequence)
            assert isinstance(outcome, SampledToken)
            tokens.append(outcome)
        return tokens

    async def token_ids(self, sequence: int) -> list[int]:
        return [sampled.token for sampled in await self.tokens(sequence)]

    async def logits(self, sequence: int, num_rows: int) -> list[PromptLogits]:
        """The logits of a prompt, chunk by chunk."""
        chunks: list[PromptLogits] = []
        while sum(len(chunk.rows) for chunk in chunks) < num_rows:
            outcome = await self.next(sequence)
            assert isinstance(outcome, PromptLogits)
            chunks.append(outcome)
        return chunks

    def emit(self, outcome: Outcome) -> None:
        match outcome:
            case PromptLogits():
                self._note(outcome)
            case _:
                for token in outcome:
                    self._note(token)

    def _note(self, outcome: SampledToken | PromptLogits) -> None:
        self.outcomes[outcome.sequence].put_nowait(outcome)


def load_message(stage: int, num_stages: int, hidden_size: int, **changes: int) -> stage_pb2.Load:
    sizes: dict[str, Any] = {"num_slots": 4, "num_groups": 1, "max_positions": 64, **changes}
    message = stage_pb2.Load(
        job=JOB,
        epoch=EPOCH,
        stage=stage,
        num_stages=num_stages,
        embedding=stage == 0,
        head=stage == num_stages - 1,
        end=1,
        dtype=frame_pb2.DTYPE_FLOAT32,
        hidden_size=hidden_size,
        vocab_size=96,
        **{"prefill_chunk": 4, **sizes},
    )
    deploy.check(message)
    return message


def make_runner(
    message: stage_pb2.Load,
    engine: Engine,
    links: tuple[Link, Link],
    threads: tuple[ComputeThread, ComputeThread],
    **changes: Any,
) -> Runner:
    """`links` are upstream and downstream, `threads` compute and coding."""
    fields: dict[str, Any] = {"slowdown": 1.0, "codec": Codec.NONE, **changes}
    return Runner(
        job=JOB,
        epoch=EPOCH,
        engine=engine,
        device=CPU,
        compute=threads[0],
        coding=threads[1],
        intake=deploy.intake(message),
        batching=deploy.batching(message),
        tails=deploy.tails(message),
        upstream=links[0],
        downstream=links[1],
        **{"emit": lambda _outcome: None, **fields},
    )


@asynccontextmanager
async def running_ring(
    engines: Sequence[Engine], hidden_size: int, *, codec: Codec = Codec.NONE, **sizes: int
) -> AsyncIterator[Ring]:
    """A ring of loaded engines at work. Leaving it hangs up; what a runner raised is raised."""
    ring = Ring()
    messages = [
        load_message(stage, len(engines), hidden_size, **sizes) for stage in range(len(engines))
    ]
    pairs = [inproc.pair(deploy.credits(message)) for message in messages]
    async with AsyncExitStack() as stack:
        for pair in pairs:
            for end in pair:
                stack.push_async_callback(end.close)
        for stage, engine in enumerate(engines):
            threads = [stack.enter_context(ComputeThread(f"test {i}")) for i in (1, 2)]
            stack.push_async_callback(threads[0].run, lambda: None)  # the engine is idle after this
            links = pairs[stage - 1][1], pairs[stage][0]
            runner = make_runner(
                messages[stage],
                engine,
                links,
                (threads[0], threads[1]),
                emit=ring.emit,
                codec=codec,
            )
            ring.runners.append(runner)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(runner.run()) for runner in ring.runners]
            yield ring
            for task in running:
                task.cancel()


def emulated(
    num_stages: int, *, hidden_size: int = 8, forward_s: float = 0, vocab_size: int = 96
) -> list[Engine]:
    """Engines that compute nothing: greedy tokens are the positions they are sampled from."""
    return [
        emulated_stage(
            embedding=stage == 0,
            head=stage == num_stages - 1,
            forward_s=forward_s,
            hidden_size=hidden_size,
            vocab_size=vocab_size,
        )
        for stage in range(num_stages)
    ]


def emulated_stage(*, embedding: bool, head: bool, **options: float) -> Engine:
    engine = EmulatedEngine()
    spec = StageSpec(
        config={},
        first=0,
        end=1,
        embedding=embedding,
        head=head,
        dtype=DType.FLOAT32,
        num_slots=4,
        max_positions=64,
        options=options,
    )
    engine.load(spec, lambda _done, _total: None)
    return engine
