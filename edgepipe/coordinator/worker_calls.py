"""What is asked of a worker while no stage runs on it: how fast it is, and its links."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from edgepipe.core.api import API
from edgepipe.core.failure import named
from edgepipe.core.measured import Measured, Measurement
from edgepipe.core.profile import Address
from edgepipe.errors import EdgepipeError, StageError
from edgepipe.transport import convert, status
from edgepipe.transport.convert.speeds import rate, seconds
from edgepipe.wire.v1 import stage_pb2, stage_pb2_grpc

PROFILE_DEADLINE_S = 900.0
LINK_DEADLINE_S = 150.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """One direction of one pair, measured with real frames."""

    address: Address
    bytes_per_s: float
    latency_s: float
    raw_tcp_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCalls:
    """A worker whose device is leased under `fence`; `who` names it in errors."""

    who: str
    channel: grpc.aio.Channel
    fence: int

    async def profile(
        self,
        config: Mapping[str, Any],
        asked: Measurement,
        progress: Callable[[int, int], None],
    ) -> Measured:
        """Measure a model. Raises what the worker does, or Unreachable."""
        request = convert.measurement_to_wire(asked)
        request.api, request.fence = API, self.fence
        request.config_json = json.dumps(config, sort_keys=True)
        try:
            call = self._stub().Profile(request, timeout=PROFILE_DEADLINE_S)
            async for event in call:
                if event.HasField("profiled"):
                    return convert.measured_from_wire(event.profiled)
                progress(event.progress.done, event.progress.total)
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            raise self._named(error) from error
        raise StageError(f"{self.who} ended its measurement without a result; see its log")

    async def measure_link(
        self,
        addresses: tuple[Address, ...],
        *,
        job: str,
        fence: int,
        node: str,
        frame_bytes: int = 0,
    ) -> LinkFigures:
        """Measure the link to a worker that is leased under `fence`.

        With `frame_bytes` frames of that size, and raw TCP; else as fast as is enough to plan.
        """
        request = stage_pb2.MeasureLinkRequest(
            api=API,
            job=job,
            fence=self.fence,
            target_fence=fence,
            addresses=[convert.address_to_wire(address) for address in addresses],
            node=node,
            frame_bytes=frame_bytes,
        )
        try:
            measured = await self._stub().MeasureLink(request, timeout=LINK_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            raise self._named(error) from error
        return LinkFigures(
            address=convert.address_from_wire(measured.address),
            bytes_per_s=rate(measured.bytes_per_s),
            latency_s=seconds(measured.latency_s),
            raw_tcp_bytes_per_s=rate(measured.raw_tcp_bytes_per_s, least=0.0),
        )

    def _named(self, error: grpc.aio.AioRpcError) -> EdgepipeError:
        return named(status.from_rpc_error(error, self.who), self.who)

    def _stub(self) -> stage_pb2_grpc.StageStub:
        return stage_pb2_grpc.StageStub(self.channel)
