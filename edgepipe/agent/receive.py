"""The agent's side of `Agent.ProvideWeights`.

coordinator                                   agent
    | offer: blobs A, B, C                 ->   |
    |                     <-  have A, want B from 5 MB on, want C from 0    |
    | data of B, in order                  ->   |  append, hash
    |                                      <-   |  have B    (verified, on the disk)
    | data of C …                          ->   |
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import ParamSpec, TypeVar

from edgepipe.agent.fence import LEAVING
from edgepipe.agent.weights import BlobId, BlobWriter, WeightStore
from edgepipe.errors import DamagedWeights, EdgepipeError, NodeLeaving, Unreachable, WireError
from edgepipe.wire.v1.agent_pb2 import WeightsOffer, WeightsRequest

MAX_BLOBS = 100_000
STALL_S = 120.0
"""A coordinator that sends nothing for so long is given up."""

DRAIN_S = 5.0

P = ParamSpec("P")
T = TypeVar("T")


async def serve_provide(
    store: WeightStore,
    node: str,
    offers: AsyncIterable[WeightsOffer],
    *,
    is_leaving: Callable[[], bool] = lambda: False,
) -> AsyncGenerator[WeightsRequest, None]:
    """Answer one offer: what is here, what is wanted, and each blob as it arrives.

    Raises:
        DamagedWeights: a blob is not what its name says; nothing of it is kept.
        NodeError: there is no room on this machine's disk.
        WireError: the coordinator broke the order of the protocol.
        NodeLeaving: `is_leaving`: the agent ends what runs on it.
        Unreachable: it fell silent. What arrived is kept, and resumed by the next offer.
    """
    receiver = _Receiver(offers, is_leaving)
    try:
        blobs = _blobs(await receiver.next())
        missing = await receiver.run(receiver.plan, store, node, blobs)
        for blob in blobs:
            yield _answer(blob, missing.get(blob))
        for writer in missing.values():
            resumed = writer.offset > 0
            await receiver.receive(writer)
            if resumed and not await receiver.run(writer.is_valid):
                yield _answer(writer.blob, writer)  # the partial was bad: all of it again
                await receiver.receive(writer)
            await receiver.run(_keep, writer)
            yield _answer(writer.blob, None)
    except Unreachable:
        raise
    except EdgepipeError:
        yield WeightsRequest()
        await receiver.drain()
        raise
    finally:
        receiver.close()


class _Receiver:
    """Carries data from the stream to the disk; all file I/O is done in one thread, in order."""

    def __init__(self, offers: AsyncIterable[WeightsOffer], is_leaving: Callable[[], bool]) -> None:
        self._offers = aiter(offers)
        self._is_leaving = is_leaving
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._writers: list[BlobWriter] = []

    def run(self, work: Callable[P, T], *args: P.args, **_: P.kwargs) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    def plan(
        self, store: WeightStore, node: str, blobs: Sequence[BlobId]
    ) -> dict[BlobId, BlobWriter]:
        """A writer for each blob that is not here. Does file I/O."""
        missing = [blob for blob in blobs if not store.holds(blob)]
        for blob in missing:
            self._writers.append(store.begin(blob, node))
        store.check_room(sum(w.blob.size_bytes - w.offset for w in self._writers))
        return dict(zip(missing, self._writers, strict=True))

    async def next(self) -> WeightsOffer:
        try:
            async with asyncio.timeout(STALL_S):
                message = await anext(self._offers)
        except TimeoutError:
            raise Unreachable(
                f"The coordinator sent no weights for {STALL_S:.0f} s: run it again to resume."
            ) from None
        except StopAsyncIteration:
            raise WireError(
                "The coordinator ended its stream of weights too early: run it again to resume."
            ) from None
        if self._is_leaving():
            raise NodeLeaving(LEAVING)
        return message

    async def receive(self, writer: BlobWriter) -> None:
        """Take a blob's remaining data. A message is received while the one before is written."""
        offset, size_bytes = writer.offset, writer.blob.size_bytes
        written = self.run(writer.append, b"")
        while offset < size_bytes:
            message = await self.next()
            _check(message, writer.blob, offset)
            await written
            written = self.run(writer.append, message.data)
            offset += len(message.data)
        await written

    async def drain(self) -> None:
        """Take what the coordinator still sends, until it ends its stream."""
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                async for _ in self._offers:
                    pass

    def close(self) -> None:
        """Close every file once the write that is under way is done. Does not block."""
        self._thread.submit(self._close_writers)
        self._thread.shutdown(wait=False)

    def _close_writers(self) -> None:
        for writer in self._writers:
            writer.close()


def _blobs(offer: WeightsOffer) -> list[BlobId]:
    """The blobs of an offer, each once."""
    if len(offer.blobs) > MAX_BLOBS:
        raise WireError(f"The coordinator offered {len(offer.blobs)} blobs, over {MAX_BLOBS}.")
    blobs = (BlobId(sha256=blob.sha256, size_bytes=blob.size_bytes) for blob in offer.blobs)
    return list(dict.fromkeys(blobs))


def _answer(blob: BlobId, writer: BlobWriter | None) -> WeightsRequest:
    if writer is None:
        return WeightsRequest(sha256=blob.sha256, have=True)
    return WeightsRequest(sha256=blob.sha256, offset=writer.offset)


def _check(message: WeightsOffer, blob: BlobId, offset: int) -> None:
    end = offset + len(message.data)
    if (message.sha256, message.offset) != (blob.sha256, offset) or not (
        offset < end <= blob.size_bytes
    ):
        raise WireError(
            f"The coordinator sent bytes {message.offset} to {end} of {message.sha256[:12]!r} "
            f"where byte {offset} of {blob.sha256[:12]} was due."
        )


def _keep(writer: BlobWriter) -> None:
    """Put a whole blob into the cache, or refuse it. Does file I/O."""
    if writer.is_valid():
        writer.commit()
        return
    writer.discard()
    raise DamagedWeights(
        f"The part {writer.blob.sha256[:12]} of the model's weights does not match its hash: "
        "the model's files changed while they were sent; run again."
    )
