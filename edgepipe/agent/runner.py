"""Runs one stage: receive, decode, compute, encode and send, each while the others work.

    upstream ─▶ [inputs] ─▶ compute ─▶ [outputs] ─▶ downstream
                 decode                  encode

Large payloads are coded on a thread of their own, while another frame is computed. A decoded
token's frame is small: it is coded where it is computed, and passes through callbacks alone, since
a task switch at each step would cost as much as the step. The compute thread is handed the frame
after the one that it computes, and goes on with it without waiting for the event loop.

The first stage has `Batching` where the others have an upstream of activations, and takes the
sampled tokens from upstream instead. The last has `Tails`: it samples.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgepipe import codec
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.figures import ByCodec, Content, Figures, Neighbours, Pass, Traffic, Way
from edgepipe.agent.role import Depths
from edgepipe.agent.slowdown import stretch
from edgepipe.core.batching import Batching, Work
from edgepipe.core.drawing import Draw, draw_all
from edgepipe.core.frame import (
    Codec,
    DType,
    Frame,
    Header,
    JobId,
    SampledToken,
    SequenceId,
)
from edgepipe.core.sampling import Choice
from edgepipe.core.stage import Admission, Intake, Tails
from edgepipe.engine.base import Engine
from edgepipe.errors import StageLost
from edgepipe.transport.link import Link

NO_PAYLOAD = memoryview(b"")
INLINE_BYTES = 64 << 10
"""Smaller payloads are coded on the compute thread: another thread costs more than it saves."""
MAX_SUBMITTED = 2
"""Frames that the compute thread is given: one at work, one to follow."""
MAX_UNSENT = 3
"""Frames that are computed or may be, before one has to leave."""
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


Outcome = tuple[SampledToken, ...] | PromptLogits
"""The tokens that one frame gave, or logits of a prompt."""


@dataclass(slots=True, kw_only=True)
class _Input:
    """A frame to compute. `rows` gives them on the compute thread; None while they are decoded."""

    header: Header
    rows: Callable[[], torch.Tensor] | None


@dataclass(slots=True, kw_only=True)
class _Output:
    """A frame to send; None while it is encoded."""

    frame: Frame | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawn:
    """What the last stage made of a frame."""

    choices: tuple[tuple[Choice, ...], ...]
    logits: tuple[PromptLogits, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Activations:
    """What another stage made of it, encoded already where that was cheap."""

    rows: torch.Tensor
    payload: memoryview | None


@dataclass(slots=True, kw_only=True)
class Runner:
    """One stage at work. `run` ends only by an error or by being cancelled.

    `busy_s` and `num_frames` count what the engine has done; `figures` are the worker's.
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
    figures: Figures = field(default_factory=Figures)
    neighbours: Neighbours = field(default_factory=Neighbours)
    busy_s: float = 0.0
    num_frames: int = 0
    _step: int = 0
    _submitted: int = 0
    _drawing: set[SequenceId] = field(default_factory=set)
    _inputs: deque[_Input] = field(default_factory=deque)
    _outputs: deque[_Output] = field(default_factory=deque)
    _broken: asyncio.Future[None] = field(default_factory=asyncio.Future)
    _sent: Traffic = field(init=False)
    _received: ByCodec = field(init=False)

    def __post_init__(self) -> None:
        peers, figures = self.neighbours, self.figures
        down = Content.ACTIVATIONS if self.tails is None else Content.TOKENS
        up = Content.ACTIVATIONS if self.batching is None else Content.TOKENS
        codec = self.codec if self.tails is None else Codec.NONE
        self._sent = figures.traffic(peers.downstream, Way.SENT, down)[codec]
        self._received = figures.traffic(peers.upstream, Way.RECEIVED, up)

    async def run(self) -> None:
        """Serve frames until cancelled. Raises StageLost, WireError, or what the engine raised."""
        self.downstream.listen(on_room=self._advance)
        self.upstream.listen(on_frame=self._arrived)
        self._advance()
        links = [asyncio.ensure_future(link.ended()) for link in (self.upstream, self.downstream)]
        ends: list[asyncio.Future[Any]] = [self._broken, *links]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            ended = next(end for end in ends if end.done())
            raise ended.result() or StageLost("a neighbour of this stage hung up")
        finally:
            for end in ends:
                end.cancel()

    def admit(self, admission: Admission, prompt_ids: Sequence[int]) -> None:
        """Take a sequence in: the last stage samples for it, the first feeds its prompt."""
        if self.tails is not None:
            self.tails.admit(admission)
        if self.batching is not None:
            self.batching.admit(
                admission.sequence,
                tuple(prompt_ids),
                max_tokens=admission.max_tokens,
                reuse=not admission.prompt_logits,
            )
        self._advance()

    def cancel(self, sequence: SequenceId) -> None:
        """Forget a sequence."""
        if self.tails is not None:
            self.tails.cancel(sequence)
        if self.batching is not None:
            self.batching.cancel(sequence)
        self._advance()

    def depths(self) -> Depths:
        """See `Role.depths`."""
        batching = self.batching
        return Depths(
            queued_frames=len(self._inputs),
            unsent_frames=len(self._outputs),
            inflight=0 if batching is None else batching.num_in_flight,
            running=0 if batching is None else batching.num_running,
            waiting=0 if batching is None else batching.num_waiting,
        )

    # ---------------------------------------------------------------------------- frames come

    def _arrived(self, frame: Frame) -> None:
        self._received[frame.header.codec].count(len(frame.payload))
        if self.batching is not None:
            self._take_tokens(frame, self.batching)
        elif self.intake.takes(frame.header):
            self._inputs.append(self._input(frame))
        else:
            self.figures.dropped_frames += 1
            self.upstream.consumed()
        self._advance()

    def _take_tokens(self, frame: Frame, batching: Batching) -> None:
        self.upstream.consumed()
        if frame.header.epoch != self.epoch:
            self.figures.dropped_frames += 1
            return
        for sampled in frame.header.sampled:
            batching.returned(sampled)

    def _input(self, frame: Frame) -> _Input:
        """Large payloads are decoded while the frame before them is computed."""
        decode, traffic = partial(self._decode, frame), self._received[frame.header.codec]
        if len(frame.payload) <= INLINE_BYTES:
            return _Input(header=frame.header, rows=partial(traffic.inline, decode))
        waiting = _Input(header=frame.header, rows=None)

        def decoded(rows: torch.Tensor) -> None:
            waiting.rows = lambda: rows
            self._advance()

        self.coding.submit(partial(traffic.aside, decode), decoded, self._fail)
        return waiting

    def _decode(self, frame: Frame) -> torch.Tensor:
        header = frame.header
        return codec.decode(
            frame.payload,
            codec=header.codec,
            shape=header.shape,
            dtype=header.dtype,
            device=self.device,
        )

    # ------------------------------------------------------------------------- one is computed

    def _advance(self) -> None:
        """Send what is ready, and keep the compute thread supplied."""
        if self._send():
            self._soon(self._supply)
        else:
            self._supply()

    def _soon(self, call: Callable[[], None]) -> None:
        """Call behind what was sent: its link begins to write once this callback is over."""

        def guarded() -> None:
            try:
                call()
            except Exception as error:  # noqa: BLE001 -- carried over to `run`
                self._fail(error)

        asyncio.get_running_loop().call_soon(guarded)

    def _send(self) -> bool:
        num_unsent = len(self._outputs)
        while self._outputs and self._outputs[0].frame is not None and self.downstream.has_room:
            self._sent.count(len(self._outputs[0].frame.payload))
            self.downstream.send(self._outputs[0].frame)
            self._outputs.popleft()
        if self._outputs and self._outputs[0].frame is not None:
            self._sent.stall()
        return len(self._outputs) < num_unsent

    def _supply(self) -> None:
        while self._may_start() and (step := self._following()) is not None:
            self._submitted += 1
            self._start(*step)

    def _may_start(self) -> bool:
        unsent = self._submitted + len(self._outputs)
        has_room = self._submitted < MAX_SUBMITTED and unsent < MAX_UNSENT
        return has_room and not self._broken.done()

    def _following(self) -> tuple[Header, Callable[[], torch.Tensor]] | None:
        return self._first_step() if self.batching is not None else self._next_step()

    def _first_step(self) -> tuple[Header, Callable[[], torch.Tensor]] | None:
        assert self.batching is not None
        work = self.batching.next(ahead=self._submitted > 0)
        if work is None:
            return None
        self._step += 1
        return self._header(work), partial(self._token_ids, work)

    def _next_step(self) -> tuple[Header, Callable[[], torch.Tensor]] | None:
        """The frame that came first, once its rows and its sequences' last tokens are there."""
        if not self._inputs or self._inputs[0].rows is None:
            return None
        if not self._drawing.isdisjoint(self._inputs[0].header.sequences):
            return None
        taken = self._inputs.popleft()
        self.upstream.consumed()
        assert taken.rows is not None
        return taken.header, taken.rows

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
            drafts=work.drafts,
        )
        taken = self.intake.takes(header)
        assert taken, "the epoch is our own"
        return header

    def _token_ids(self, work: Work) -> torch.Tensor:
        return torch.from_numpy(np.array(work.token_ids, dtype=np.int64)).to(self.device)

    def _start(self, header: Header, rows: Callable[[], torch.Tensor]) -> None:
        if self.tails is None:
            self.compute.submit(
                lambda: self._activations(header, rows),
                lambda activations: self._computed(header, activations),
                self._fail,
            )
            return
        tails = self.tails
        draws, wants_logits = tails.due(header), tails.wants_logits(header)
        self._drawing.update(header.sequences[draw.span] for draw in draws)
        self.compute.submit(
            lambda: self._draw(header, rows, draws, wants_logits=wants_logits),
            lambda drawn: self._drew(header, tails, draws, drawn),
            self._fail,
        )

    # ----------------------------------------------------------------------- on the compute thread

    def _forward(
        self, header: Header, rows: Callable[[], torch.Tensor], *, all_logits: bool = False
    ) -> torch.Tensor:
        """Run the engine; an emulated slower device takes the rest of its time asleep."""
        begin = time.perf_counter()
        output = self.engine.forward(header.spans, rows(), all_logits=all_logits)
        stretch(begin, self.slowdown)
        seconds = time.perf_counter() - begin
        self.busy_s += seconds
        self.num_frames += 1
        self.figures.computed(Pass.GENERATE, header.shape[0], seconds)
        return output

    def _activations(self, header: Header, rows: Callable[[], torch.Tensor]) -> _Activations:
        output = self._forward(header, rows)
        small = output.numel() * output.element_size() <= INLINE_BYTES
        payload = self._sent.inline(partial(self._encode, output)) if small else None
        return _Activations(rows=output, payload=payload)

    def _encode(self, rows: torch.Tensor) -> memoryview:
        return codec.encode(rows, self.codec)

    def _draw(
        self,
        header: Header,
        rows: Callable[[], torch.Tensor],
        draws: tuple[Draw, ...],
        *,
        wants_logits: bool,
    ) -> _Drawn:
        all_logits = wants_logits or bool(header.drafts)
        output = self._forward(header, rows, all_logits=all_logits)
        if not draws and not wants_logits:
            return _Drawn(choices=(), logits=())
        logits = output.cpu().numpy()
        first = [_first_row(header, draw, all_logits=all_logits) for draw in draws]
        return _Drawn(
            choices=draw_all(logits, draws, first),
            logits=_prompt_logits(header, logits) if wants_logits else (),
        )

    # ------------------------------------------------------------------------------- frames go

    def _computed(self, header: Header, activations: _Activations) -> None:
        """Pass the rows on; large ones are encoded while the next frame is computed."""
        if self._broken.done():  # the frame before failed: these may lack what it would have cached
            return
        self._submitted -= 1
        output = _Output(frame=None)
        self._outputs.append(output)

        def encoded(payload: memoryview) -> None:
            output.frame = self._frame(header, activations.rows, payload)
            self._advance()

        if activations.payload is not None:
            encoded(activations.payload)
        else:
            encode = partial(self._encode, activations.rows)
            self.coding.submit(partial(self._sent.aside, encode), encoded, self._fail)
            self._advance()

    def _drew(self, header: Header, tails: Tails, draws: tuple[Draw, ...], drawn: _Drawn) -> None:
        """Send the tokens home, then tell the coordinator."""
        if self._broken.done():
            return
        self._submitted -= 1
        self._drawing.difference_update(header.sequences[draw.span] for draw in draws)
        sampled = tuple(
            token
            for draw, choices in zip(draws, drawn.choices, strict=True)
            for token in tails.record(header, draw, choices)
        )
        self.figures.sampled_tokens += len(sampled)
        if sampled:
            reply = Header(
                job=self.job,
                epoch=self.epoch,
                step=header.step,
                group=header.group,
                sampled=sampled,
            )
            self._outputs.append(_Output(frame=Frame(header=reply, payload=NO_PAYLOAD)))
        self._advance()
        for logits in drawn.logits:
            self._soon(partial(self.emit, logits))
        if sampled:
            self._soon(partial(self.emit, sampled))

    def _frame(self, header: Header, rows: torch.Tensor, payload: memoryview) -> Frame:
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
                drafts=header.drafts,
            ),
            payload=payload,
        )

    def _fail(self, error: BaseException) -> None:
        if not self._broken.done():
            self._broken.set_exception(error)


def _first_row(header: Header, draw: Draw, *, all_logits: bool) -> int:
    """Where the logits of a draw begin: one row a span, or one a token."""
    if not all_logits:
        return draw.span
    end = sum(span.count for span in header.spans[: draw.span + 1])
    return end - 1 - len(draw.drafts)


def _prompt_logits(header: Header, logits: npt.NDArray[np.float32]) -> tuple[PromptLogits, ...]:
    ends = accumulate(span.count for span in header.spans)
    return tuple(
        PromptLogits(sequence=sequence, start=span.start, rows=logits[end - span.count : end])
        for span, sequence, end in zip(header.spans, header.sequences, ends, strict=True)
    )
