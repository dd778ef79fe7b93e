"""The coordinator's end of one stage: its Run stream, as core events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import numpy.typing as npt

from edgepipe.coordinator.deployment import Deployment, TrainingSetup
from edgepipe.core.api import API
from edgepipe.core.failure import StageFailure
from edgepipe.core.frame import SequenceId
from edgepipe.core.job import (
    Event,
    Request,
    SequenceAdmitted,
    StageConnected,
    StageLoaded,
    TokenSampled,
)
from edgepipe.core.order import Order
from edgepipe.core.profile import Address
from edgepipe.core.training import Decision, StageApplied, StageReady
from edgepipe.errors import EdgepipeError, StageLost, Unreachable
from edgepipe.transport import convert, status
from edgepipe.wire.v1 import stage_pb2, stage_pb2_grpc

Ids = npt.NDArray[np.int32]
"""Tokens or targets, int32 [rows]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLogits:
    """Logits of a prompt's positions from `start` on, float32 [rows, vocab]."""

    sequence: SequenceId
    start: int
    rows: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """What a stage reported when it was loaded, in bytes; `units` are kept of one that trains."""

    weight_bytes: int
    kv_bytes: int
    baseline_bytes: int
    peak_bytes: int
    units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMeter:
    """What a stage's compute thread has done since it was loaded."""

    stage: int
    busy_s: float
    num_frames: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StageReport:
    """What a stage that trains says of an order."""

    stage: int
    report: StageReady | StageApplied


Report = PromptLogits | StageMeter | StageReport
"""What a stage says beside the job's own events."""


@dataclass(slots=True, kw_only=True)
class StageClient:
    """Commands go out in the order they are given; what comes back is posted as events.

    `stage` is its index in the ring and `who` its name in sentences.
    """

    stage: int
    who: str
    channel: grpc.aio.Channel
    post: Callable[[Event | Report], None]
    on_loading: Callable[[int, int, int], None]
    memory: StageMemory | None = None
    reached: Address | None = None
    _commands: asyncio.Queue[stage_pb2.Command | None] = field(default_factory=asyncio.Queue)

    async def run(self) -> StageFailure:
        """Serve the stage's stream until it ends, and return why; being cancelled ends it too."""
        stub = stage_pb2_grpc.StageStub(self.channel)
        heard = False
        try:
            async for event in stub.Run(self._outgoing()):
                heard = True
                if event.HasField("failed"):
                    error = status.error_of(event.failed.kind, event.failed.message)
                    return StageFailure(who=self.who, error=error, reported=True)
                self._take(event)
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            return StageFailure(who=self.who, error=self._broken(error, heard=heard))
        finally:
            self.close()  # or what sends the commands would wait for the next one for ever
        return StageFailure(who=self.who, error=StageLost("it ended its stage; see its log"))

    def _broken(self, error: grpc.aio.AioRpcError, *, heard: bool) -> EdgepipeError:
        found = status.from_rpc_error(error, self.who)
        if heard and isinstance(found, StageLost | Unreachable):
            return StageLost("its process died or its machine left the network; run it again")
        return found

    def close(self) -> None:
        """End the stage: nothing is sent after this."""
        self._commands.put_nowait(None)

    async def _outgoing(self) -> AsyncIterator[stage_pb2.Command]:
        while (command := await self._commands.get()) is not None:
            yield command

    def _send(self, command: stage_pb2.Command) -> None:
        self._commands.put_nowait(command)

    # ------------------------------------------------------------------------------- commands

    def load(self, deployment: Deployment, fence: int) -> None:
        """Have the stage load its layers."""
        place = deployment.stages[self.stage]
        load = stage_pb2.Load(
            api=API,
            job=deployment.job,
            epoch=deployment.epoch,
            fence=fence,
            stage=self.stage,
            num_stages=len(deployment.stages),
            engine=place.engine,
            config_json=json.dumps(deployment.config, sort_keys=True),
            first=place.first,
            end=place.end,
            embedding=place.embedding,
            head=place.head,
            dtype=convert.dtype_to_wire(deployment.dtype),
            num_slots=deployment.num_slots,
            max_positions=deployment.max_positions,
            prefill_chunk=deployment.prefill_chunk,
            hidden_size=deployment.hidden_size,
            vocab_size=deployment.vocab_size,
            codec=convert.codec_to_wire(place.codec),
            weights=[part.sha256 for part in place.parts],
            options_json=json.dumps(place.options, sort_keys=True),
            num_groups=deployment.num_groups,
            weight_format=convert.weight_format_to_wire(place.weight_format),
            max_draft=deployment.max_draft,
            draft_cost=deployment.draft_cost,
        )
        if deployment.setup is not None:
            self._fill(load.training, deployment.setup)
        self._send(stage_pb2.Command(load=load))

    def _fill(self, wire: stage_pb2.Training, setup: TrainingSetup) -> None:
        credits = setup.credits_of(self.stage)  # noqa: A001 -- the transport's own term
        convert.fill_training(wire, setup.training)
        wire.max_rows = setup.max_rows
        wire.max_order_rows = setup.max_order_rows
        wire.credits_forward = credits.forward
        wire.credits_backward = credits.backward
        wire.exchange = setup.exchange

    def connect(
        self, addresses: tuple[Address, ...], fence: int, node: str, *, upstream_node: str
    ) -> None:
        """Have the stage dial the next one; the nodes of that and of the one before are named."""
        connect = stage_pb2.Connect(
            addresses=[convert.address_to_wire(address) for address in addresses],
            fence=fence,
            node=node,
            upstream_node=upstream_node,
        )
        self._send(stage_pb2.Command(connect=connect))

    def admit(self, request: Request) -> None:
        """Tell the stage of a sequence."""
        self._send(stage_pb2.Command(admit=convert.request_to_wire(request)))

    def cancel(self, sequence: SequenceId) -> None:
        """Have the stage forget a sequence."""
        self._send(stage_pb2.Command(cancel=stage_pb2.Cancel(sequence=sequence)))

    def meter(self) -> None:
        """Ask what the stage has done."""
        self._send(stage_pb2.Command(meter=stage_pb2.Meter()))

    def order(self, order: Order) -> None:
        """Tell the stage what to do for a step."""
        self._send(stage_pb2.Command(order=convert.order_to_wire(order)))

    def tokens(self, number: int, microbatch: int, tokens: Ids | None, targets: Ids | None) -> None:
        """Give the stage a microbatch's tokens, or its targets."""
        message = stage_pb2.Tokens(
            order=number,
            microbatch=microbatch,
            token_ids=convert.ids_to_wire(tokens),
            targets=convert.ids_to_wire(targets),
        )
        self._send(stage_pb2.Command(tokens=message))

    def decide(self, decision: Decision) -> None:
        """Tell the stage what becomes of an order."""
        self._send(stage_pb2.Command(decide=convert.decision_to_wire(decision)))

    # --------------------------------------------------------------------------------- events

    def _take(self, event: stage_pb2.Event) -> None:
        match event.WhichOneof("event"):
            case "sampled":
                self._sampled(event.sampled)
            case "admitted":
                sequence = SequenceId(event.admitted.sequence)
                self.post(SequenceAdmitted(stage=self.stage, sequence=sequence))
            case "loading":
                loading = event.loading
                self.on_loading(self.stage, loading.done_bytes, loading.total_bytes)
            case "loaded":
                self._loaded(event.loaded)
            case "connected":
                self.reached = convert.address_from_wire(event.connected.address)
                self.post(StageConnected(stage=self.stage))
            case "logits":
                self.post(self._logits(event.logits))
            case "metered":
                self.post(self._metered(event.metered))
            case "ready":
                ready = convert.ready_from_wire(event.ready)
                self.post(StageReport(stage=self.stage, report=ready))
            case "applied":
                applied = convert.applied_from_wire(event.applied)
                self.post(StageReport(stage=self.stage, report=applied))
            case _:
                pass  # `cancelled`, or an event of a later version: nothing waits for it

    def _sampled(self, sampled: stage_pb2.Sampled) -> None:
        for token in sampled.tokens:
            self.post(TokenSampled(sampled=convert.sampled_from_wire(token)))

    def _loaded(self, loaded: stage_pb2.Loaded) -> None:
        self.memory = StageMemory(
            weight_bytes=loaded.weight_bytes,
            kv_bytes=loaded.kv_bytes,
            baseline_bytes=loaded.baseline_bytes,
            peak_bytes=loaded.peak_bytes,
            units=tuple(convert.text(unit) for unit in loaded.units),
        )
        self.post(StageLoaded(stage=self.stage))

    @staticmethod
    def _logits(logits: stage_pb2.Logits) -> PromptLogits:
        rows = np.frombuffer(logits.rows, dtype="<f4").reshape(logits.num_rows, -1)
        return PromptLogits(sequence=SequenceId(logits.sequence), start=logits.start, rows=rows)

    def _metered(self, metered: stage_pb2.Metered) -> StageMeter:
        return StageMeter(stage=self.stage, busy_s=metered.busy_s, num_frames=metered.num_frames)
