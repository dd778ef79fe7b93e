"""The coordinator's side of `Agent.ProvideWeights`: give one agent the parts that it lacks.

The order of messages is drawn in `edgepipe/agent/receive.py`. Blobs go one after another; at most
two chunks of one are in memory here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from edgepipe.coordinator.layout import CHUNK_BYTES
from edgepipe.coordinator.parts import Part
from edgepipe.core.failure import named
from edgepipe.errors import Unreachable, WireError
from edgepipe.transport import status
from edgepipe.wire.v1.agent_pb2 import Blob, WeightsOffer, WeightsRequest
from edgepipe.wire.v1.agent_pb2_grpc import AgentStub

Progress = Callable[[int, int], None]
"""Called with (bytes that the agent has, bytes in all)."""

STALL_S = 60.0
"""An agent that takes nothing and says nothing for so long is given up."""


async def provide(
    stub: AgentStub, parts: Sequence[Part], progress: Progress, *, who: str = "The agent"
) -> None:
    """Make sure that an agent has every part in its cache. `who` names it in sentences.

    Raises:
        Unreachable: it is gone or stalls; what it has is resumed by the next call.
        NodeError: it has no room on its disk, or is told to stop.
        DamagedWeights: a file of the model cannot be read, or changed since it was hashed.
        WireError: it asks for something that was not offered.
    """
    offered = {part.sha256: part for part in parts}
    if not offered:
        return
    call = stub.ProvideWeights()
    try:
        await _Transfer(call=call, parts=offered, progress=progress, who=who).run()
    except grpc.aio.AioRpcError as error:
        raise named(status.from_rpc_error(error, who), who) from None
    finally:
        call.cancel()  # nothing happens where the call has ended


@asynccontextmanager
async def _deadline(who: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(STALL_S):
            yield
    except TimeoutError:
        raise Unreachable(
            f"{who} took no weights for {STALL_S:.0f} s: check it and its network, and run it "
            "again to resume."
        ) from None


@dataclass(slots=True, kw_only=True)
class _Transfer:
    """One call, from its offer to the agent's last `have`."""

    call: grpc.aio.StreamStreamCall[WeightsOffer, WeightsRequest]
    parts: dict[str, Part]
    progress: Progress
    who: str
    have: dict[str, int] = field(default_factory=dict)

    async def run(self) -> None:
        blobs = [Blob(sha256=p.sha256, size_bytes=p.size_bytes) for p in self.parts.values()]
        await self._write(WeightsOffer(blobs=blobs))
        answers = [await self._read(self.call.read()) for _ in blobs]
        for answer in answers:
            await self._satisfy(answer)
        await self.call.done_writing()

    async def _satisfy(self, answer: WeightsRequest) -> None:
        """Send what an answer asks for until the agent has that part."""
        part = self._part(answer)
        while not answer.have:
            following = asyncio.ensure_future(self.call.read())
            try:
                await self._send(part, answer.offset, stop=following.done)
                answer = await self._read(following)
            finally:
                following.cancel()
            if self._part(answer) is not part:
                raise WireError(f"{self.who} asks for weights out of order: run one version.")
        self._report(part, part.size_bytes)

    def _part(self, answer: WeightsRequest) -> Part:
        part = self.parts.get(answer.sha256)
        if part is None or answer.offset > part.size_bytes:
            raise WireError(f"{self.who} asks for weights that were not offered: run one version.")
        return part

    async def _send(self, part: Part, offset: int, stop: Callable[[], bool]) -> None:
        """Send a part from `offset` on; a chunk is read while the one before is sent."""
        loop, thread = asyncio.get_running_loop(), ThreadPoolExecutor(1)
        reader = part.open()
        ahead = loop.run_in_executor(thread, reader.read, offset, CHUNK_BYTES)
        try:
            self._report(part, offset)
            while (data := await ahead) and not stop():
                end = offset + len(data)
                ahead = loop.run_in_executor(thread, reader.read, end, CHUNK_BYTES)
                await self._write(WeightsOffer(sha256=part.sha256, offset=offset, data=data))
                self._report(part, offset := end)
        finally:
            ahead.cancel()
            thread.submit(reader.close)
            thread.shutdown(wait=False)

    async def _write(self, message: WeightsOffer) -> None:
        try:
            async with _deadline(self.who):
                await self.call.write(message)
        except asyncio.InvalidStateError:  # the call had ended: its status says why
            await self._read(self.call.read())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INTERNAL:  # what grpc calls a broken connection
                raise self._broken_off() from None
            raise

    async def _read(self, reading: Awaitable[object]) -> WeightsRequest:
        async with _deadline(self.who):
            answer = await reading
        if isinstance(answer, WeightsRequest) and answer.sha256:
            return answer
        async with _deadline(self.who):  # the agent gives up: its status says why
            await self.call.done_writing()
            await self.call.read()
        raise self._broken_off()

    def _broken_off(self) -> Unreachable:
        return Unreachable(f"{self.who} broke off the transfer of weights: run it again to resume.")

    def _report(self, part: Part, num_bytes: int) -> None:
        self.have[part.sha256] = num_bytes
        self.progress(sum(self.have.values()), sum(p.size_bytes for p in self.parts.values()))
