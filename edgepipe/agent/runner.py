"""Runs one stage: receive, decode, compute, encode and send, each while the others work.

    upstream ─▶ receive ─▶ [inputs] ─▶ compute ─▶ [outputs] ─▶ send ─▶ downstream

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
    _work: asyncio.Event = field(default_factory=asyncio.Event)
    _inputs: asyncio.Queue[_Rows] = field(default_factory=lambda: asyncio.Queue(1))
    _outputs: asyncio.Queue[tuple[Header, _Activations | None]] = field(
        default_factory=lambda: asyncio.Queue(1)
    )
    _step: int = 0
    busy_s: float = 0.0
    num_frames: int = 0

    async def run(self) -> None:
        """Serve frames until cancelled. Raises StageLost or WireError."""
        async with asyncio.TaskGroup() as tasks:
            if self.batching is not None:
                tasks.create_task(self._take_tokens(self.batching))
                tasks.create_task(self._feed(self.batching))
            else:
                tasks.create_task(self._receive())
                tasks.create_task(self._follow())
            tasks.create_task(self._send())

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

    async def _feed(self, batching: Batching) -> None:
        while True:
            work = batching.next()
            if work is None:
                self._work.clear()
                await self._work.wait()
                continue
            self._step += 1
            await self._process(self._header(work), partial(self._token_ids, work))

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

    async def _receive(self) -> None:
        while True:
            frame = await self.upstream.receive()
            if not self.intake.takes(frame.header):
                self.upstream.consumed()
                continue
            await self._inputs.put(await self._rows(frame))

    async def _rows(self, frame: Frame) -> _Rows:
        """Large payloads are decoded while the frame before them is computed."""
        if len(frame.payload) <= INLINE_BYTES:
            return _Rows(header=frame.header, decode=lambda: self._decode(frame))
        rows = await self.coding.run(lambda: self._decode(frame))
        return _Rows(header=frame.header, decode=lambda: rows)

    def _decode(self, frame: Frame) -> torch.Tensor:
        header = frame.header
        return codec.decode(
            frame.payload,
            codec=header.codec,
            shape=header.shape,
            dtype=header.dtype,
            device=self.device,
        )

    async def _follow(self) -> None:
        while True:
            rows = await self._inputs.get()
            self.upstream.consumed()
            await self._process(rows.header, rows.decode)

    # ----------------------------------------------------------------------------- all stages

    async def _process(self, header: Header, inputs: Callable[[], torch.Tensor]) -> None:
        if self.tails is None:
            activations = await self.compute.run(lambda: self._activations(header, inputs))
            await self._outputs.put((header, activations))
            return
        draws = self.tails.due(header)
        wants_logits = self.tails.wants_logits(header)
        drawn = await self.compute.run(lambda: self._draw(header, inputs, draws, wants_logits))
        for logits in drawn.logits:
            self.emit(logits)
        await self._return_tokens(header, self.tails, drawn)

    def _activations(self, header: Header, inputs: Callable[[], torch.Tensor]) -> _Activations:
        rows = self._forward(header, inputs)
        small = rows.numel() * rows.element_size() <= INLINE_BYTES
        return _Activations(rows=rows, payload=codec.encode(rows, self.codec) if small else None)

    def _forward(
        self, header: Header, inputs: Callable[[], torch.Tensor], *, all_logits: bool = False
    ) -> torch.Tensor:
        """Run the engine; an emulated slower device takes the rest of its time asleep."""
        begin = time.perf_counter()
        rows = self.engine.forward(header.spans, inputs(), all_logits=all_logits)
        if self.slowdown > 1:
            time.sleep((time.perf_counter() - begin) * (self.slowdown - 1))
        self.busy_s += time.perf_counter() - begin
        self.num_frames += 1
        return rows

    def _draw(
        self,
        header: Header,
        inputs: Callable[[], torch.Tensor],
        draws: tuple[Draw, ...],
        all_logits: bool,
    ) -> _Drawn:
        logits = self._forward(header, inputs, all_logits=all_logits)
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
        await self._outputs.put((reply, None))
        for token in sampled:
            self.emit(token)

    async def _send(self) -> None:
        while True:
            header, activations = await self._outputs.get()
            frame = Frame(header=header, payload=memoryview(b""))
            if activations is not None:
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
