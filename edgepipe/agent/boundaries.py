"""The two ends of a stage's ring: the next stage is dialled, the one before dials."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import grpc

from edgepipe.agent import deploy_training
from edgepipe.core.api import API
from edgepipe.errors import StageLost
from edgepipe.transport import convert, inproc
from edgepipe.transport.channel import choose_address
from edgepipe.transport.endpoint import Credentials
from edgepipe.transport.grpc_link import dial
from edgepipe.transport.link import Hello, Link
from edgepipe.transport.stream_link import StreamLink
from edgepipe.wire.v1 import stage_pb2

DIAL_DEADLINE_S = 10.0
UPSTREAM_DEADLINE_S = 30.0


@dataclass(slots=True, kw_only=True)
class Boundaries:
    """Of one session. The only stage of a ring is its own neighbour."""

    credentials: Credentials | None
    _downstream: Link | None = None
    _channel: grpc.aio.Channel | None = None
    _upstream: asyncio.Future[Link] = field(default_factory=asyncio.Future)

    @property
    def has_upstream(self) -> bool:
        """The stage before has dialled, or must not any more."""
        return self._upstream.done()

    def take_upstream(self, link: StreamLink) -> None:
        """Be handed the boundary of the stage before."""
        if self._upstream.done():
            link.drop(StageLost("the stage that was dialled has its boundary, or is over"))
        else:
            self._upstream.set_result(link)

    async def dial(
        self, load: stage_pb2.Load, connect: stage_pb2.Connect
    ) -> tuple[Link, stage_pb2.Connected]:
        """The boundary to the next stage, and how it was reached. Raises why there is none."""
        credits_down = deploy_training.credits_down(load)
        if load.num_stages == 1:
            self._downstream, upstream = inproc.pair(credits_down)
            self._upstream.set_result(upstream)
            return self._downstream, stage_pb2.Connected()
        hello = Hello(
            api=API,
            job=load.job,
            epoch=load.epoch,
            fence=connect.fence,
            from_stage=load.stage,
            credits=credits_down,
        )
        address, self._channel = await choose_address(
            convert.addresses_from_wire(connect.addresses),
            deadline_s=DIAL_DEADLINE_S,
            credentials=self.credentials,
            probe=hello,
        )
        self._downstream = await dial(
            self._channel,
            hello,
            peer=connect.node,
            max_frame_bytes=deploy_training.max_frame_bytes(load),
            eager=load.HasField("training"),
        )
        return self._downstream, stage_pb2.Connected(address=convert.address_to_wire(address))

    async def upstream(self) -> Link:
        """The boundary of the stage before, once it has dialled. Raises StageLost if it is late."""
        try:
            async with asyncio.timeout(UPSTREAM_DEADLINE_S):
                return await asyncio.shield(self._upstream)
        except TimeoutError:
            raise StageLost("the stage before this one did not connect; run it again") from None

    async def close(self) -> None:
        """Hang up on both sides."""
        links = [self._downstream]
        if self._upstream.done() and not self._upstream.cancelled():
            links.append(self._upstream.result())
        for link in links:
            if link is not None:
                await link.close()
        if self._channel is not None:
            await self._channel.close()
        self._upstream.cancel()
