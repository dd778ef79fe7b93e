"""The coordinator's side of leases: take, renew with progress, give back."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable
from dataclasses import dataclass

import grpc

from edgepipe.core.api import API
from edgepipe.errors import LeaseLost, Unreachable
from edgepipe.transport import status
from edgepipe.wire.v1 import agent_pb2, agent_pb2_grpc

TTL_S = 30.0
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

    async def acquire(self, job: str) -> int:
        """The fence under which the device is ours. Raises LeaseHeld, or NodeError."""
        request = agent_pb2.AcquireLeaseRequest(
            api=API, device=self.device, job=job, holder=holder(), ttl_s=TTL_S
        )
        try:
            lease = await self._stub().AcquireLease(request, timeout=CALL_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise status.from_rpc_error(error, self.who) from error
        return int(lease.fence)

    async def keep(self, fence: int, progress: Callable[[], int]) -> None:
        """Renew until cancelled. Raises LeaseLost, or Unreachable when the agent is silent."""
        while True:
            await asyncio.sleep(TTL_S / RENEWALS_PER_TTL)
            request = agent_pb2.RenewLeaseRequest(
                device=self.device, fence=fence, progress=progress()
            )
            try:
                await self._stub().RenewLease(request, timeout=CALL_DEADLINE_S)
            except grpc.aio.AioRpcError as error:
                raise status.from_rpc_error(error, self.who) from error

    async def release(self, fence: int) -> None:
        """Give the device back; where the agent is gone, the lease runs out by itself."""
        request = agent_pb2.ReleaseLeaseRequest(device=self.device, fence=fence)
        try:
            await self._stub().ReleaseLease(request, timeout=CALL_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            failure = status.from_rpc_error(error, self.who)
            if not isinstance(failure, LeaseLost | Unreachable):
                raise failure from error

    def _stub(self) -> agent_pb2_grpc.AgentStub:
        return agent_pb2_grpc.AgentStub(self.channel)
