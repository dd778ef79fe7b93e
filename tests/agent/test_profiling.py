"""Measuring a device for whoever leases it: bounds, the fence, and one thing at a time."""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from equivalence.tiny_models import CONFIGS, NUM_LAYERS, config_dict

from edgepipe.agent import profiling, stage_servicer
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.device import WorkerDevice
from edgepipe.agent.fence import Fence
from edgepipe.agent.profiling import check, clock
from edgepipe.agent.stage_servicer import StageServicer
from edgepipe.agent.weights import WeightStore
from edgepipe.core.api import API
from edgepipe.core.profile import Address
from edgepipe.core.speed import RUNTIME_S
from edgepipe.errors import EdgepipeError, LeaseHeld, LeaseLost, ModelError, StageError, WireError
from edgepipe.transport import convert
from edgepipe.transport.channel import bind, create_server, open_channel
from edgepipe.transport.status import from_rpc_error
from edgepipe.wire.v1 import frame_pb2, stage_pb2, stage_pb2_grpc

DEADLINE_S = 60
FENCE = 7


SIZES_OF_BLOCKS = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 32}


def request(**changes: Any) -> stage_pb2.ProfileRequest:
    fields: dict[str, Any] = {
        "api": API,
        "fence": FENCE,
        "engine": "torch",
        "config_json": json.dumps(config_dict(CONFIGS["llama, tied"])),
        "dtype": frame_pb2.DTYPE_FLOAT32,
        "num_slots": 2,
        "max_positions": 64,
        "prefill_chunk": 16,
        "memory_bytes": 1 << 28,
    }
    return stage_pb2.ProfileRequest(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_slots": 0}, "slots 0 cannot be measured, only 1 to 1024"),
        ({"num_slots": 1025}, "slots 1025"),
        ({"max_positions": 1}, "positions 1 cannot"),
        ({"max_positions": 1 << 23}, "positions 8388608"),
        ({"prefill_chunk": 0}, "rows of a prefill chunk 0"),
        ({"prefill_chunk": 1 << 20}, "rows of a prefill chunk"),
        ({"sequence_length": 1 << 20}, "tokens of a sequence"),
        ({"rank": 1 << 13}, "rank 8192"),
        ({"config_json": ""}, "characters of a config 0"),
        ({"config_json": " " * (1 << 21)}, "characters of a config"),
        ({"config_json": "[1]"}, "not a JSON object"),
        ({"config_json": "{,}"}, "not JSON"),
        ({"dtype": frame_pb2.DTYPE_INT64}, "float32, bfloat16 or float16"),
        ({"dtype": 99}, "not one that this version knows"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        check(request(**changes))


def test_an_engine_that_is_not_measured_is_refused() -> None:
    with pytest.raises(StageError, match="only torch"):
        check(request(engine="llama"))


def test_a_slower_device_takes_longer_by_its_factor() -> None:
    """The clock sleeps for the rest, as a stage does."""
    spent = torch.zeros(0)

    def work() -> None:
        for _ in range(200):
            torch.add(spent, 1)

    plain_s, slowed_s = (clock(torch.device("cpu"), factor)(work) for factor in (1.0, 50.0))
    assert slowed_s > 5 * plain_s


def test_what_a_device_was_given_before_belongs_to_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU works on while its caller goes on."""
    order: list[str] = []
    monkeypatch.setattr(profiling, "_finish", lambda _device: order.append("wait"))
    clock(torch.device("cuda"), 1.0)(lambda: order.append("call"))
    assert order == ["wait", "call", "wait"]


@pytest.mark.parametrize("fault", [profiling._Stopped, StageError, RuntimeError])
def test_an_error_holds_no_weights(fault: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever keeps it would keep them."""
    held: list[weakref.ref[torch.Tensor]] = []

    def fail(*_: object) -> None:
        weights = torch.zeros(1)
        held.append(weakref.ref(weights))
        raise fault("nobody waits")

    monkeypatch.setattr(profiling, "measure_items", fail)
    with ComputeThread("unused") as unused, pytest.raises(Exception) as caught:  # noqa: PT011
        profiling._measure(check(request()), cpu(Path(), unused, unused), lambda *_: None)
    assert caught.value is not None
    assert held[0]() is None


def cpu(home: Path, compute: ComputeThread, coding: ComputeThread) -> WorkerDevice:
    return WorkerDevice(
        torch_device=torch.device("cpu"),
        slowdown=1.0,
        baseline_bytes=0,
        store=WeightStore(home),
        compute=compute,
        coding=coding,
        credentials=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    stub: stage_pb2_grpc.StageStub
    fence: Fence
    servicer: StageServicer

    async def profile(self, **changes: Any) -> list[stage_pb2.ProfileEvent]:
        try:
            async with asyncio.timeout(DEADLINE_S):
                return [event async for event in self.stub.Profile(request(**changes))]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, "worker") from None


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Worker]:
    fence = Fence(current=FENCE)
    with ComputeThread("compute") as compute, ComputeThread("coding") as coding:
        server, servicer = create_server(), StageServicer(cpu(home, compute, coding), fence)
        servicer.add_to(server)
        address = Address(host="127.0.0.1", port=bind(server, "127.0.0.1", 0, None))
        await server.start()
        try:
            async with open_channel(address, None) as channel:
                stub = stage_pb2_grpc.StageStub(channel)
                yield Worker(stub=stub, fence=fence, servicer=servicer)
        finally:
            await server.stop(0)


@pytest.fixture
async def worker(tmp_path: Path) -> AsyncIterator[Worker]:
    async with running(tmp_path) as worker:
        yield worker


async def test_progress_comes_first_and_then_what_was_measured(worker: Worker) -> None:
    *progress, last = await worker.profile()
    assert progress
    assert all(event.HasField("progress") for event in progress)
    assert progress[-1].progress.done == progress[-1].progress.total
    measured = convert.measured_from_wire(last.profiled)
    assert measured.items.kinds == (0,) * NUM_LAYERS
    (layer,) = measured.items.layers
    assert layer.decode.rows == (1, 2)
    assert layer.prefill.rows == (1, 16)
    assert layer.decode.at(1) > 0
    assert layer.forward.rows == (), "training was not asked for"
    assert measured.items.head.decode.at(1) > 0
    assert set(measured.codecs) == {"bf16", "int8", "int4"}
    assert measured.overhead_s > RUNTIME_S


@pytest.mark.parametrize(
    ("engine", "weight_format", "offsets"),
    [
        ("onnx", frame_pb2.WEIGHT_FORMAT_UNSPECIFIED, False),
        ("onnx", frame_pb2.WEIGHT_FORMAT_INT8, False),
        ("onnx", frame_pb2.WEIGHT_FORMAT_INT4, True),
        ("torch", frame_pb2.WEIGHT_FORMAT_INT8, False),
        ("torch", frame_pb2.WEIGHT_FORMAT_INT4, False),
    ],
)
async def test_each_engine_is_measured_with_the_weights_asked_for(
    worker: Worker, engine: str, weight_format: int, offsets: bool
) -> None:
    config = json.dumps({**config_dict(CONFIGS["llama, tied"]), **SIZES_OF_BLOCKS})
    held = {"weight_format": weight_format, "offsets": offsets}
    last = (await worker.profile(engine=engine, config_json=config, **held))[-1]
    measured = convert.measured_from_wire(last.profiled)
    (layer,) = measured.items.layers
    assert layer.decode.rows == (1, 2)
    assert layer.prefill.rows == (1, 16)
    assert layer.prefill.at(16) > 0
    assert measured.items.head.decode.at(1) > 0


async def test_what_onnx_runtime_does_not_run_is_said(worker: Worker) -> None:
    config = json.dumps(config_dict(CONFIGS["gpt2, learned positions"]))
    with pytest.raises(ModelError, match="use --engine torch"):
        await worker.profile(engine="onnx", config_json=config)


@pytest.mark.parametrize("rank", [0, 4], ids=["all weights", "adapters"])
async def test_where_training_is_asked_for_it_alone_is_measured(worker: Worker, rank: int) -> None:
    last = (await worker.profile(sequence_length=8, rank=rank))[-1]
    measured = convert.measured_from_wire(last.profiled)
    (layer,) = measured.items.layers
    assert layer.forward.rows == (8, 256)
    assert layer.backward.at(256) > 0
    assert layer.update_s > 0
    assert layer.decode.rows == measured.items.head.decode.rows == ()


async def test_who_has_no_lease_measures_nothing(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepipe.agent.fence.PATIENCE_S", 0.05)
    with pytest.raises(LeaseLost):
        await worker.profile(fence=FENCE + 1)
    with pytest.raises(LeaseLost, match="superseded"):
        await worker.profile(fence=FENCE - 1)


async def test_a_device_on_which_a_stage_runs_is_not_measured(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage_servicer, "PROFILE_PATIENCE_S", 0.05)
    stage = worker.stub.Run(_never())
    async with asyncio.timeout(DEADLINE_S):
        while worker.servicer._session is None:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0)
    with pytest.raises(LeaseHeld, match="another job's stage still runs"):
        await worker.profile()
    stage.cancel()


async def _never() -> AsyncIterator[stage_pb2.Command]:
    await asyncio.Event().wait()
    yield stage_pb2.Command()


async def test_it_ends_with_its_lease(worker: Worker) -> None:
    call = worker.stub.Profile(request())
    async with asyncio.timeout(DEADLINE_S):
        await call.read()
        await worker.fence.set(0)
        with pytest.raises(EdgepipeError, match="lease on this device ended") as caught:
            await _drain(call)
    assert isinstance(caught.value, LeaseLost)
    await worker.fence.set(FENCE + 1)
    assert (await worker.profile(fence=FENCE + 1))[-1].HasField("profiled"), "and frees the device"


async def _drain(call: Any) -> None:
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, "worker") from None


async def test_it_ends_when_nobody_waits(worker: Worker) -> None:
    call = worker.stub.Profile(request())
    async with asyncio.timeout(DEADLINE_S):
        await call.read()
        call.cancel()
        assert (await worker.profile())[-1].HasField("profiled")


async def test_a_model_that_cannot_be_measured_is_told(worker: Worker) -> None:
    with pytest.raises(EdgepipeError, match="not known to transformers"):
        await worker.profile(config_json='{"model_type": "nothing"}')
    with pytest.raises(StageError, match="more than is free"):
        await worker.profile(memory_bytes=10)


async def test_a_fault_of_a_library_stays_one_sentence(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA out of memory\nand more")

    monkeypatch.setattr(profiling, "measure_items", broken)
    with pytest.raises(StageError, match=r"could not be measured \(RuntimeError: see its log\)"):
        await worker.profile()
