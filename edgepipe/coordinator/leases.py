"""The coordinator's side of leases: take, renew with progress, give back.

We ask for TTL_S; the agent may grant less (its `lease_ttl_s`).
"""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from edgepipe.core.api import API
from edgepipe.core.failure import named
from edgepipe.core.lease import DEFAULT_TTL_S, Granted
from edgepipe.errors import EdgepipeError, LeaseLost, Unreachable
from edgepipe.transport import status
from edgepipe.wire.v1 import agent_pb2, agent_pb2_grpc

TTL_S = DEFAULT_TTL_S
CALL_DEADLINE_S = 5.0
RENEWALS_PER_TTL = 6


def holder() -> str:
    """How this coordinator is named to whoever is refused."""
    return f"{getpass.getuser()}@{socket.gethostname()}"[:128]


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseClient:
    """The lease of one device, on the channel to its agent. `who` names the node."""

    who: str
    device: str
    channel: grpc.aio.Channel

    async def acquire(self, job: str) -> Granted:
        """Make the device ours. Raises LeaseHeld, or NodeError."""
        request = agent_pb2.AcquireLeaseRequest(
            api=API, device=self.device, job=job, holder=holder(), ttl_s=TTL_S
        )
        try:
            lease = await self._stub().AcquireLease(request, timeout=CALL_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            status.raise_cancellation()
            raise self._named(error) from error
        return Granted(fence=lease.fence, ttl_s=lease.ttl_s)

    async def keep(self, granted: Granted, progress: Callable[[], int]) -> None:
        """Renew until cancelled.

        Raises LeaseLost, or Unreachable once the agent has been silent for the lease's time.
        """
        clock = asyncio.get_running_loop().time
        renewed_s = clock()
        while True:
            await asyncio.sleep(granted.ttl_s / RENEWALS_PER_TTL)
            request = agent_pb2.RenewLeaseRequest(
                device=self.device, fence=granted.fence, progress=progress()
            )
            try:
                await self._stub().RenewLease(request, timeout=CALL_DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                status.raise_cancellation()
                failure = self._named(error)
                if not isinstance(failure, Unreachable) or clock() - renewed_s > granted.ttl_s:
                    raise failure from error
            else:
                renewed_s = clock()

    async def release(self, fence: int) -> None:
        """Give the device back; where the agent is gone, the lease runs out by itself."""
        request = agent_pb2.ReleaseLeaseRequest(device=self.device, fence=fence)
        try:
            await self._stub().ReleaseLease(request, timeout=CALL_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            failure = self._named(error)
            if not isinstance(failure, LeaseLost | Unreachable):
                raise failure from error

    def _named(self, error: grpc.aio.AioRpcError) -> EdgepipeError:
        return named(status.from_rpc_error(error, self.who), self.who)

    def _stub(self) -> agent_pb2_grpc.AgentStub:
        return agent_pb2_grpc.AgentStub(self.channel)
