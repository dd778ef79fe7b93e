"""Weights over a real gRPC stream on loopback, from a model's files into an agent's cache."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from tiny_files import random_array, write_folder

from edgepipe.agent import receive
from edgepipe.agent.receive import serve_provide
from edgepipe.agent.weights import KEEP_FREE_BYTES, WeightStore
from edgepipe.coordinator import provide as provide_module
from edgepipe.coordinator.parts import Part, build_parts
from edgepipe.coordinator.provide import provide
from edgepipe.coordinator.safetensors_source import read_folder
from edgepipe.errors import (
    DamagedWeights,
    NodeError,
    Unreachable,
    WireError,
)
from edgepipe.transport.status import aborting
from edgepipe.wire.v1.agent_pb2 import Blob, WeightsOffer, WeightsRequest
from edgepipe.wire.v1.agent_pb2_grpc import (
    AgentServicer,
    AgentStub,
    add_AgentServicer_to_server,
)

LAYER_VALUES = 700_000  # 2.8 MB: three chunks
DEADLINE_S = 20.0


@dataclass
class Servicer(AgentServicer):
    store: WeightStore
    received: list[int] = field(default_factory=list)
    open_streams: int = 0
    pause_after: int = 1 << 30

    async def ProvideWeights(  # noqa: N802
        self, request_iterator: AsyncIterator[WeightsOffer], context: grpc.aio.ServicerContext
    ) -> AsyncIterator[WeightsRequest]:
        self.open_streams += 1
        try:
            async with aborting(context):
                async for request in serve_provide(
                    self.store, "node", self._counted(request_iterator)
                ):
                    yield request
        finally:
            self.open_streams -= 1

    async def _counted(self, offers: AsyncIterator[WeightsOffer]) -> AsyncIterator[WeightsOffer]:
        async for offer in offers:
            if offer.data:
                self.received.append(len(offer.data))
            yield offer
            if len(self.received) >= self.pause_after:
                await asyncio.Event().wait()


@asynccontextmanager
async def agent(home: Path) -> AsyncIterator[tuple[Servicer, AgentStub]]:
    servicer = Servicer(WeightStore(home))
    server = grpc.aio.server()
    add_AgentServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield servicer, AgentStub(channel)
    await server.stop(grace=0)


async def until(condition: object) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 -- files have no event
            await asyncio.sleep(0)


def ignore(_done: int, _total: int) -> None:
    pass


@pytest.fixture
def model(tmp_path: Path) -> Path:
    names = ["model.embed.weight", "model.layers.0.w", "model.layers.1.w"]
    arrays = {name: random_array(LAYER_VALUES, seed=i) for i, name in enumerate(names)}
    return write_folder(tmp_path / "model", [arrays])


@pytest.fixture
def parts(model: Path, tmp_path: Path) -> tuple[Part, ...]:
    source = read_folder(model)
    names = sorted(tensor.name for tensor in source)
    return build_parts(source, names, home=tmp_path / "coordinator")


def all_there(store: WeightStore, parts: tuple[Part, ...]) -> bool:
    return all(store.path(p.sha256).read_bytes() == p.read(0, p.size_bytes) for p in parts)


async def test_an_empty_cache_is_filled(tmp_path: Path, parts: tuple[Part, ...]) -> None:
    calls: list[tuple[int, int]] = []
    async with agent(tmp_path) as (servicer, stub):
        await provide(stub, parts, lambda done, total: calls.append((done, total)))
    total = sum(part.size_bytes for part in parts)
    assert all_there(servicer.store, parts)
    assert calls == sorted(calls)
    assert calls[-1] == (total, total)
    assert max(servicer.received) <= 1 << 20
    assert sorted(p.suffix for p in servicer.store.folder.iterdir()) == [".safetensors"] * 3


async def test_nothing_is_sent_twice(tmp_path: Path, parts: tuple[Part, ...]) -> None:
    calls: list[tuple[int, int]] = []
    async with agent(tmp_path) as (servicer, stub):
        await provide(stub, parts, ignore)
        servicer.received.clear()
        await provide(stub, (*parts, *parts), lambda done, total: calls.append((done, total)))
    total = sum(part.size_bytes for part in parts)
    assert servicer.received == []
    assert calls[-1] == (total, total)


async def test_no_parts_need_no_agent() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        await provide(AgentStub(channel), (), ignore)


async def test_a_coordinator_that_dies_in_the_middle_is_resumed(
    tmp_path: Path, parts: tuple[Part, ...]
) -> None:
    total = sum(part.size_bytes for part in parts)
    async with agent(tmp_path) as (servicer, stub):
        servicer.pause_after = 5
        task = asyncio.create_task(provide(stub, parts, ignore))
        await until(lambda: servicer.store.partial_bytes(parts[1].sha256, "node") == 2 << 20)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: servicer.open_streams == 0 and not servicer.store._busy)
        servicer.received.clear()
        servicer.pause_after = 1 << 30
        await provide(stub, parts, ignore)
        assert all_there(servicer.store, parts)
    assert sum(servicer.received) == total - parts[0].size_bytes - (2 << 20)


async def test_an_agent_that_dies_in_the_middle_is_resumed(
    tmp_path: Path, parts: tuple[Part, ...]
) -> None:
    servicer = Servicer(WeightStore(tmp_path))
    server = grpc.aio.server()
    add_AgentServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        task = asyncio.create_task(provide(AgentStub(channel), parts, ignore, who="attic"))
        await until(lambda: len(servicer.received) >= 4)
        await server.stop(grace=0)
        with pytest.raises(Unreachable, match="attic"):
            await task
    await until(lambda: not servicer.store._busy)
    async with agent(tmp_path) as (again, stub):
        await provide(stub, parts, ignore)
    assert all_there(again.store, parts)
    assert sum(again.received) < sum(part.size_bytes for part in parts) - (2 << 20)


async def test_a_corrupted_partial_is_sent_again_from_the_start(
    tmp_path: Path, parts: tuple[Part, ...]
) -> None:
    store = WeightStore(tmp_path)
    store.folder.mkdir()
    for part, size in zip(parts, (1000, parts[1].size_bytes), strict=False):
        (store.folder / f"{part.sha256}.node.partial").write_bytes(bytes(size))
    async with agent(tmp_path) as (servicer, stub):
        await provide(stub, parts, ignore)
    assert all_there(servicer.store, parts)


async def test_a_file_that_changed_after_it_was_hashed_is_refused(
    tmp_path: Path, model: Path, parts: tuple[Part, ...]
) -> None:
    path = model / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    async with agent(tmp_path) as (servicer, stub):
        with pytest.raises(DamagedWeights, match="does not match its hash"):
            await provide(stub, parts, ignore)
    assert len([p for p in servicer.store.folder.iterdir() if p.suffix == ".partial"]) == 0
    assert not all(servicer.store.has(part.sha256) for part in parts)


async def test_a_full_disk_is_one_sentence(
    tmp_path: Path, parts: tuple[Part, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = KEEP_FREE_BYTES + 1000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    async with agent(tmp_path) as (_, stub):
        with pytest.raises(NodeError, match="The weights need"):
            await provide(stub, parts, ignore)


async def test_a_disk_that_fills_up_on_the_way_is_one_sentence(
    tmp_path: Path, parts: tuple[Part, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edgepipe.agent.weights._write_all", full)
    async with agent(tmp_path) as (_, stub):
        with pytest.raises(NodeError, match="No space left on device"):
            await provide(stub, parts, ignore)


async def test_an_agent_that_is_not_there_is_unreachable(parts: tuple[Part, ...]) -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unreachable, match="attic does not answer"):
            await provide(AgentStub(channel), parts, ignore, who="attic")


async def test_agents_may_be_filled_at_once_and_twice(
    tmp_path: Path, parts: tuple[Part, ...]
) -> None:
    async with agent(tmp_path / "a") as (one, a), agent(tmp_path / "b") as (two, b):
        await asyncio.gather(*(provide(stub, parts, ignore) for stub in (a, a, b, b)))
    assert all_there(one.store, parts)
    assert all_there(two.store, parts)


async def test_an_agent_that_stalls_is_given_up(
    tmp_path: Path, parts: tuple[Part, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provide_module, "STALL_S", 0.1)
    stalled = asyncio.Event()

    async def stall(*_: object) -> AsyncIterator[WeightsRequest]:
        await stalled.wait()
        yield WeightsRequest()

    monkeypatch.setattr(f"{__name__}.serve_provide", stall)
    async with agent(tmp_path) as (_, stub):
        with pytest.raises(Unreachable, match="attic took no weights for"):
            await provide(stub, parts, ignore, who="attic")
        stalled.set()


def offer(part: Part, **changes: object) -> list[WeightsOffer]:
    data = {"sha256": part.sha256, "offset": 0, "data": b"x", **changes}
    blob = Blob(sha256=part.sha256, size_bytes=part.size_bytes)
    return [WeightsOffer(blobs=[blob]), WeightsOffer(**data)]


async def serve(home: Path, *offers: WeightsOffer) -> list[WeightsRequest]:
    async def stream() -> AsyncIterator[WeightsOffer]:
        for message in offers:
            yield message

    return [answer async for answer in serve_provide(WeightStore(home), "node", stream())]


@pytest.mark.parametrize(
    "changes", [{"sha256": "b" * 64}, {"offset": 1}, {"data": b""}, {"data": bytes(5 << 20)}]
)
async def test_data_that_was_not_asked_for_ends_the_stream(
    tmp_path: Path, parts: tuple[Part, ...], changes: dict[str, object]
) -> None:
    with pytest.raises(WireError, match="was due"):
        await serve(tmp_path, *offer(parts[0], **changes))


async def test_a_stream_that_ends_early_keeps_what_came(
    tmp_path: Path, parts: tuple[Part, ...]
) -> None:
    with pytest.raises(WireError, match="too early"):
        await serve(tmp_path, *offer(parts[0], data=parts[0].read(0, 100)))
    path = tmp_path / "weights" / f"{parts[0].sha256}.node.partial"
    await until(lambda: path.stat().st_size == 100)


async def test_a_coordinator_that_falls_silent_is_given_up(
    tmp_path: Path, parts: tuple[Part, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "STALL_S", 0.05)

    async def stream() -> AsyncIterator[WeightsOffer]:
        yield offer(parts[0])[0]
        await asyncio.Event().wait()

    with pytest.raises(Unreachable, match="sent no weights"):
        async for _ in serve_provide(WeightStore(tmp_path), "node", stream()):
            pass


@pytest.mark.parametrize("name", ["../../etc/passwd", "a" * 63])
async def test_a_name_that_is_no_hash_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedWeights, match="malformed name"):
        await serve(tmp_path, WeightsOffer(blobs=[Blob(sha256=name, size_bytes=1)]))


@pytest.mark.slow
async def test_throughput(tmp_path: Path) -> None:
    """Prints MB/s on loopback, hashing and fsync included."""
    arrays = {f"model.layers.{i}.w": random_array(16 << 20, seed=i) for i in range(4)}
    source = read_folder(write_folder(tmp_path / "model", [arrays]))
    parts = build_parts(source, sorted(arrays), home=tmp_path / "coordinator")
    async with agent(tmp_path) as (servicer, stub):
        start = time.perf_counter()
        await provide(stub, parts, ignore)
        seconds = time.perf_counter() - start
    print(f"\n{sum(p.size_bytes for p in parts) / seconds / 1e6:.0f} MB/s")  # noqa: T201
    assert all(servicer.store.has(part.sha256) for part in parts)
