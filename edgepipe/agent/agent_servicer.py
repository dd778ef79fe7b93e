"""The supervisor's gRPC service: protobuf on one side, the agent's own values on the other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc

from edgepipe.agent.lease_book import LeaseBook
from edgepipe.agent.receive import serve_provide
from edgepipe.agent.weights import WeightStore
from edgepipe.core.api import check_api
from edgepipe.core.profile import DeviceId, NodeProfile
from edgepipe.transport import convert
from edgepipe.transport.status import aborting
from edgepipe.wire.v1 import agent_pb2, agent_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class AgentServicer(agent_pb2_grpc.AgentServicer):
    """Describes this machine, leases its devices and takes weights."""

    def __init__(
        self, *, profile: Callable[[], NodeProfile], leases: LeaseBook, store: WeightStore
    ) -> None:
        self._profile = profile
        self._leases = leases
        self._store = store
        self._is_leaving = False

    def leave(self) -> None:
        """Have those who send weights told that the agent stops."""
        self._is_leaving = True

    async def Describe(  # noqa: N802 -- named in the proto
        self, request: agent_pb2.DescribeRequest, context: Context
    ) -> agent_pb2.NodeProfile:
        """Answer whoever asks, of any version: the caller decides what it can use."""
        del request, context
        return convert.node_to_wire(self._profile())

    async def AcquireLease(  # noqa: N802
        self, request: agent_pb2.AcquireLeaseRequest, context: Context
    ) -> agent_pb2.Lease:
        """Grant a device, or say who holds it."""
        async with aborting(context):
            check_api(request.api)
            granted = await self._leases.acquire(
                DeviceId(request.device), request.job, request.holder, request.ttl_s
            )
        return agent_pb2.Lease(fence=granted.fence, ttl_s=granted.ttl_s)

    async def RenewLease(  # noqa: N802
        self, request: agent_pb2.RenewLeaseRequest, context: Context
    ) -> agent_pb2.Lease:
        """Prolong a lease."""
        async with aborting(context):
            ttl_s = self._leases.renew(DeviceId(request.device), request.fence, request.progress)
        return agent_pb2.Lease(fence=request.fence, ttl_s=ttl_s)

    async def ReleaseLease(  # noqa: N802
        self, request: agent_pb2.ReleaseLeaseRequest, context: Context
    ) -> agent_pb2.ReleaseLeaseReply:
        """Free a device."""
        async with aborting(context):
            self._leases.release(DeviceId(request.device), request.fence)
        return agent_pb2.ReleaseLeaseReply()

    async def ProvideWeights(  # noqa: N802
        self, request_iterator: AsyncIterator[agent_pb2.WeightsOffer], context: Context
    ) -> AsyncIterator[agent_pb2.WeightsRequest]:
        """Take the parts that this agent lacks."""
        node = self._profile().name
        async with aborting(context):
            async for request in serve_provide(
                self._store, node, request_iterator, is_leaving=lambda: self._is_leaving
            ):
                yield request
