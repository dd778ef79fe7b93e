"""Runs one stage: receive, decode, compute, encode and send, each while the others work.

    upstream ─▶ receive, decode ─▶ compute ─▶ encode, send ─▶ downstream
                └ of frame n + 1    frame n    └ of frame n - 1

Large payloads are coded on a thread of their own. A decoded token's frame is small: it passes
through one task and one thread, which is what its latency is made of.

The first stage has `Batching` where the others have an upstream of activations, and takes the
sampled tokens from upstream instead. The last has `Tails`: it samples.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from edgepipe import codec
from edgepipe.agent.compute import ComputeThread
from edgepipe.core.batching import Batching, Work
from edgepipe.core.frame import (
    Codec,
    DType,
    Frame,
    Header,
    JobId,
    SampledToken,
    SequenceId,
    Span,
)
from edgepipe.core.sampling import sample
from edgepipe.core.stage import Admission, Draw, Intake, Tails
from edgepipe.engine.base import Engine
from edgepipe.transport.link import Link

NO_PAYLOAD = memoryview(b"")
INLINE_BYTES = 64 << 10
"""Smaller payloads are coded on the compute thread: another thread costs more than it saves."""
TORCH_DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.bfloat16: DType.BFLOAT16,
    torch.float16: DType.FLOAT16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogits:
    """Logits float32 [rows, vocab] of a prompt's positions from `start` on."""

    sequence: SequenceId
    start: int
    rows: npt.NDArray[np.float32]


Outcome = SampledToken | PromptLogits


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """A frame's header and how to get its decoded rows, called on the compute thread."""

    header: Header
    decode: Callable[[], torch.Tensor]
    is_large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What the last stage made of a frame."""

    tokens: tuple[tuple[Draw, int, float], ...]
    logits: tuple[PromptLogits, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Activations:
    """A stage's output, encoded already where that was cheap."""

    rows: torch.Tensor
    payload: memoryview | None


@dataclass(slots=True, kw_only=True)
class Runner:
    """One stage at work. `run` ends only by an error or by being cancelled.

    `busy_s` and `num_frames` count what the engine has done.
    """

    job: JobId
    epoch: int
    engine: Engine
    device: torch.device
    slowdown: float
    codec: Codec
    compute: ComputeThread
    coding: ComputeThread
    intake: Intake
    batching: Batching | None
    tails: Tails | None
    upstream: Link
    downstream: Link
    emit: Callable[[Outcome], None]
    busy_s: float = 0.0
    num_frames: int = 0
    _step: int = 0
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _ahead: asyncio.Task[_Rows] | None = None
    _sending: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Serve frames until cancelled. Raises StageLost or WireError, in a group."""
        async with asyncio.TaskGroup() as tasks:
            if self.batching is not None:
                tasks.create_task(self._take_tokens(self.batching))
                tasks.create_task(self._feed(self.batching, tasks))
            else:
                tasks.create_task(self._follow(tasks))

    def admit(self, admission: Admission, prompt_ids: Sequence[int]) -> None:
        """Take a sequence in: the last stage samples for it, the first feeds its prompt."""
        if self.tails is not None:
            self.tails.admit(admission)
        if self.batching is not None:
            self.batching.admit(admission.sequence, tuple(prompt_ids))
            self._work.set()

    def cancel(self, sequence: SequenceId) -> None:
        """Forget a sequence."""
        if self.tails is not None:
            self.tails.cancel(sequence)
        if self.batching is not None:
            self.batching.cancel(sequence)
            self._work.set()

    # -------------------------------------------------------------------------- first stage

    async def _take_tokens(self, batching: Batching) -> None:
        while True:
            frame = await self.upstream.receive()
            self.upstream.consumed()
            if frame.header.epoch != self.epoch:
                continue
            for sampled in frame.header.sampled:
                batching.returned(sampled)
            self._work.set()

    async def _feed(self, batching: Batching, tasks: asyncio.TaskGroup) -> None:
        while True:
            work = batching.next()
            if work is None:
                self._work.clear()
                await self._work.wait()
                continue
            self._step += 1
            rows = _Rows(header=self._header(work), decode=partial(self._token_ids, work))
            await self._process(rows, tasks)

    def _header(self, work: Work) -> Header:
        header = Header(
            job=self.job,
            epoch=self.epoch,
            step=self._step,
            group=work.group,
            spans=work.spans,
            sequences=work.sequences,
            shape=(len(work.token_ids),),
            dtype=DType.INT64,
        )
        assert self.intake.takes(header)
        return header

    def _token_ids(self, work: Work) -> torch.Tensor:
        return torch.tensor(work.token_ids, dtype=torch.int64, device=self.device)

    # -------------------------------------------------------------------------- other stages

    async def _follow(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            rows = await (self._ahead or self._receive())
            self._ahead = tasks.create_task(self._receive()) if rows.is_large else None
            self.upstream.consumed()
            await self._process(rows, tasks)

    async def _receive(self) -> _Rows:
        """The next frame to compute; a large one is decoded while the one before is computed."""
        while True:
            frame = await self.upstream.receive()
            if self.intake.takes(frame.header):
                break
            self.upstream.consumed()
        if len(frame.payload) <= INLINE_BYTES:
            return _Rows(header=frame.header, decode=lambda: self._decode(frame))
        rows = await self.coding.run(lambda: self._decode(frame))
        return _Rows(header=frame.header, decode=lambda: rows, is_large=True)

    def _decode(self, frame: Frame) -> torch.Tensor:
        header = frame.header
        return codec.decode(
            frame.payload,
            codec=header.codec,
            shape=header.shape,
            dtype=header.dtype,
            device=self.device,
        )

    # ----------------------------------------------------------------------------- all stages

    async def _process(self, rows: _Rows, tasks: asyncio.TaskGroup) -> None:
        header = rows.header
        if self.tails is None:
            activations = await self.compute.run(lambda: self._activations(rows))
            await self._deliver(header, activations, tasks)
            return
        draws = self.tails.due(header)
        wants_logits = self.tails.wants_logits(header)
        drawn = await self.compute.run(lambda: self._draw(rows, draws, all_logits=wants_logits))
        for logits in drawn.logits:
            self.emit(logits)
        await self._return_tokens(header, self.tails, drawn)

    def _activations(self, rows: _Rows) -> _Activations:
        output = self._forward(rows)
        small = output.numel() * output.element_size() <= INLINE_BYTES
        payload = codec.encode(output, self.codec) if small else None
        return _Activations(rows=output, payload=payload)

    def _forward(self, rows: _Rows, *, all_logits: bool = False) -> torch.Tensor:
        """Run the engine; an emulated slower device takes the rest of its time asleep."""
        begin = time.perf_counter()
        output = self.engine.forward(rows.header.spans, rows.decode(), all_logits=all_logits)
        if self.slowdown > 1:
            time.sleep((time.perf_counter() - begin) * (self.slowdown - 1))
        self.busy_s += time.perf_counter() - begin
        self.num_frames += 1
        return output

    def _draw(self, rows: _Rows, draws: tuple[Draw, ...], *, all_logits: bool) -> _Drawn:
        header = rows.header
        logits = self._forward(rows, all_logits=all_logits)
        last_rows = _last_rows(header.spans) if all_logits else range(len(header.spans))
        tokens = []
        for draw in draws:
            row = logits[last_rows[draw.span]].cpu().numpy()
            tokens.append((draw, *sample(row, draw.sampling, draw.position)))
        return _Drawn(
            tokens=tuple(tokens), logits=_prompt_logits(header, logits) if all_logits else ()
        )

    async def _return_tokens(self, header: Header, tails: Tails, drawn: _Drawn) -> None:
        recorded = (tails.record(header, *token) for token in drawn.tokens)
        sampled = tuple(token for token in recorded if token is not None)
        if not sampled:
            return
        reply = Header(
            job=self.job, epoch=self.epoch, step=header.step, group=header.group, sampled=sampled
        )
        await self.downstream.ready()
        self.downstream.send(Frame(header=reply, payload=NO_PAYLOAD))
        for token in sampled:
            self.emit(token)

    async def _deliver(
        self, header: Header, activations: _Activations, tasks: asyncio.TaskGroup
    ) -> None:
        """Send a frame; a large one is encoded while the next one is computed."""
        if self._sending is not None:
            await self._sending
            self._sending = None
        if activations.payload is None:
            self._sending = tasks.create_task(self._send(header, activations))
        else:
            await self._send(header, activations)

    async def _send(self, header: Header, activations: _Activations) -> None:
        frame = await self._encoded(header, activations)
        await self.downstream.ready()
        self.downstream.send(frame)

    async def _encoded(self, header: Header, activations: _Activations) -> Frame:
        payload = activations.payload
        if payload is None:
            payload = await self.coding.run(lambda: codec.encode(activations.rows, self.codec))
        rows = activations.rows
        return Frame(
            header=Header(
                job=header.job,
                epoch=header.epoch,
                step=header.step,
                group=header.group,
                spans=header.spans,
                sequences=header.sequences,
                shape=tuple(rows.shape),
                dtype=TORCH_DTYPES[rows.dtype],
                codec=self.codec,
                payload_bytes=len(payload),
            ),
            payload=payload,
        )


def _last_rows(spans: Sequence[Span]) -> list[int]:
    ends = np.cumsum([span.count for span in spans])
    return [int(end) - 1 for end in ends]


def _prompt_logits(header: Header, logits: torch.Tensor) -> tuple[PromptLogits, ...]:
    rows = logits.cpu().numpy()
    ends = np.cumsum([span.count for span in header.spans])
    return tuple(
        PromptLogits(sequence=sequence, start=span.start, rows=rows[end - span.count : end])
        for span, sequence, end in zip(header.spans, header.sequences, ends, strict=True)
    )
