"""Bytes that are no frames, and stages that fail: told in one sentence, and the worker stays up."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from cluster.conftest import Cluster
from cluster.tiny_folder import CONTEXT, write_tiny
from on_paper import surveyed

from edgepipe.coordinator.deployment import Deployment
from edgepipe.coordinator.emulated import HIDDEN_SIZE, emulate, emulated_deployment
from edgepipe.coordinator.launch import deployment, new_job, weight_parts
from edgepipe.coordinator.leases import LeaseClient
from edgepipe.coordinator.nodes import Roster, Search, find_nodes
from edgepipe.coordinator.pipeline import open_pipeline
from edgepipe.coordinator.planning import How, candidates, make_plan
from edgepipe.coordinator.prepared import prepare
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.stage_client import StageClient
from edgepipe.core.api import API
from edgepipe.core.failure import StageFailure
from edgepipe.core.frame import DType, Frame, Header, JobId, SampledToken, SequenceId, Span
from edgepipe.core.job import Request, StageLoaded
from edgepipe.core.profile import Address
from edgepipe.core.sampling import Sampling
from edgepipe.discovery.peers import parse_peers
from edgepipe.errors import StageError, WireError
from edgepipe.transport.grpc_link import SERVICE
from edgepipe.transport.hello import hello_message
from edgepipe.transport.link import Hello
from edgepipe.transport.pieces import cut

DEADLINE_S = 30
POSITIONS = 64


@asynccontextmanager
async def found(cluster: Cluster) -> AsyncIterator[Roster]:
    peers = parse_peers([agent.peer for agent in cluster.agents])
    search = Search(cluster=cluster.name, peers=peers)
    async with asyncio.timeout(DEADLINE_S), find_nodes(search) as roster:
        yield roster


def emulated(roster: Roster, *nodes: str) -> Deployment:
    return emulated_deployment(
        emulate(roster, num_stages=len(nodes), stage_s=[0.0], nodes=nodes),
        num_slots=1,
        max_positions=POSITIONS,
        prefill_chunk=16,
        codec=None,
    )


async def expect_answer(roster: Roster, *nodes: str, max_tokens: int = 4) -> None:
    """The workers serve: tokens of an emulated ring are the positions they are sampled from."""
    request = Request(
        sequence=SequenceId(1),
        prompt_ids=(1, 2, 3),
        sampling=Sampling(),
        max_tokens=max_tokens,
        eos_ids=frozenset(),
    )
    async with open_pipeline(emulated(roster, *nodes), roster.nodes, Silent()) as pipeline:
        tokens = [t.token async for t in pipeline.generate(request) if isinstance(t, SampledToken)]
    assert tokens == list(range(2, 2 + max_tokens))


async def refusal(channel: grpc.aio.Channel, *messages: bytes) -> str:
    """The sentence with which a worker ends a boundary that sends these."""
    call: Any = channel.stream_stream(f"/{SERVICE}/Boundary")(timeout=DEADLINE_S)
    for message in messages:
        await call.write(message)
    with suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
    return str(await call.details())


# --------------------------------------------------------------------------------- no hello

GARBAGE = {
    "noise": (bytes(range(7, 207)), "not a chunk of a frame"),
    "nothing": (b"", "not a chunk of a frame"),
    "a header that is none": (b"\x0d\x20\x00\x00\x00" + b"\xff" * 27, "header .* is damaged"),
    "a payload behind the end": (b"\x0d\xff\xff\xff\xff", "begins at 4294967295 of 5 bytes"),
    "no hello": (b"\x0d\x05\x00\x00\x00", "begins with a hello"),
}


@pytest.mark.parametrize(("message", "sentence"), GARBAGE.values(), ids=GARBAGE.keys())
async def test_a_boundary_that_begins_with_garbage(
    cluster: Cluster, message: bytes, sentence: str
) -> None:
    async with found(cluster) as roster:
        bob = roster.usable[1]
        async with bob.worker_channel(bob.profile.devices[0]) as channel:
            assert re.search(sentence, await refusal(channel, message))
        await expect_answer(roster, "ada", "bob")


# ------------------------------------------------------------------------- in the middle of a job


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A stage that the test itself is the coordinator of."""

    client: StageClient
    running: asyncio.Task[StageFailure]
    channel: grpc.aio.Channel
    fence: int
    events: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)


@asynccontextmanager
async def held(roster: Roster, job: Deployment) -> AsyncIterator[list[Held]]:
    """Every stage of a job leased and loaded, and no boundary between them yet."""
    async with AsyncExitStack() as stack:
        stages = [await _hold(roster, job, index, stack) for index in range(len(job.stages))]
        for stage in stages:
            assert isinstance(await stage.events.get(), StageLoaded)
        yield stages


async def _hold(roster: Roster, job: Deployment, index: int, stack: AsyncExitStack) -> Held:
    place = job.stages[index]
    who, device = place.node.name, place.device
    node = roster.nodes[place.node.id]
    lease = LeaseClient(who=who, device=device.id, channel=node.channel)
    fence = (await lease.acquire(job.job)).fence
    stack.push_async_callback(lease.release, fence)
    channel = await stack.enter_async_context(node.worker_channel(device))
    events: asyncio.Queue[Any] = asyncio.Queue()
    client = StageClient(
        stage=index,
        who=who,
        channel=channel,
        post=events.put_nowait,
        on_loading=lambda _stage, _done, _total: None,
    )
    running = asyncio.create_task(client.run())
    stack.callback(running.cancel)
    client.load(job, fence)
    return Held(client=client, running=running, channel=channel, fence=fence, events=events)


def frame(job: JobId) -> bytes:
    """The one message of a frame of one row, as the stage before would send it."""
    payload = memoryview(bytes(DType.FLOAT32.itemsize * HIDDEN_SIZE))
    header = Header(
        job=job,
        epoch=1,
        step=1,
        group=0,
        spans=(Span(slot=0, start=0, count=1),),
        sequences=(SequenceId(1),),
        shape=(1, HIDDEN_SIZE),
        payload_bytes=len(payload),
    )
    (message,) = cut(Frame(header=header, payload=payload), lambda: 0, 1 << 20)
    return message


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "its end is missing": (lambda message: message[:-100], "is cut off at"),
    "a bit is wrong": (lambda message: message[:-1] + b"\x01", "checksum does not match"),
    "only its beginning": (lambda message: message[:9], "payload begins at"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_truncated_frame(
    cluster: Cluster, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    """Of two stages the second is connected to the first, and dialled by us in its stead."""
    async with found(cluster) as roster:
        job = emulated(roster, "ada", "bob")
        async with held(roster, job) as (ada, bob):
            port = job.stages[0].device.port
            bob.client.connect(
                (Address(host="127.0.0.1", port=port),), ada.fence, "ada", upstream_node="ada"
            )
            hello = Hello(api=API, job=job.job, epoch=1, fence=bob.fence, from_stage=0, credits=4)
            said = await refusal(bob.channel, hello_message(hello), damage(frame(job.job)))
            assert re.search(sentence, said)
            failure = await bob.running
            assert (type(failure.error), str(failure.error)) == (WireError, said)
            assert failure.reported
        await expect_answer(roster, "ada", "bob")


async def test_a_stage_that_ends_first_leaves_no_task_behind(cluster: Cluster) -> None:
    """What sends the commands would wait for the next one for ever."""
    async with found(cluster) as roster, held(roster, emulated(roster, "ada", "bob")) as (_, bob):
        senders = [task for task in asyncio.all_tasks() if "consume_request" in str(task)]
        assert len(senders) == 2
        bob.client.connect((), 0, "nobody", upstream_node="ada")
        assert (await bob.running).reported
        done, _ = await asyncio.wait(
            senders, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED
        )
        assert len(done) == 1


async def test_a_second_boundary_is_refused(cluster: Cluster) -> None:
    async with found(cluster) as roster:
        job = emulated(roster, "ada", "bob")
        async with held(roster, job) as (_, bob):
            hello = Hello(api=API, job=job.job, epoch=1, fence=bob.fence, from_stage=0, credits=4)
            call: Any = bob.channel.stream_stream(f"/{SERVICE}/Boundary")(timeout=DEADLINE_S)
            await call.write(hello_message(hello))
            await call.read()
            said = await refusal(bob.channel, hello_message(hello))
            assert said.startswith("stage 1 takes one boundary, of stage 0")
            call.cancel()


# --------------------------------------------------------------------------- a stage that fails


async def test_a_stage_that_runs_out_of_memory(cluster: Cluster, tmp_path: Path) -> None:
    """What torch raises becomes a sentence."""
    home = cluster.edgepipe.home
    prepared = await prepare(str(write_tiny(tmp_path / "tiny")), home=home)
    parts = await weight_parts(prepared, home=home, progress=lambda _done, _total: None)
    async with found(cluster) as roster:
        how = How(nodes=("cyd", "dan"))
        survey = surveyed(prepared.shape, candidates(roster))
        planned = make_plan(prepared.shape, survey, how, CONTEXT)
        job = deployment(prepared, planned, roster, parts, how, job=new_job())
        absurd = replace(job, num_slots=1 << 10, max_positions=1 << 22)
        with pytest.raises(StageError, match=r"^(cyd|dan) \(cpu\): its stage failed \(.*memory"):
            async with open_pipeline(absurd, roster.nodes, Silent()):
                pass
        await expect_answer(roster, "cyd", "dan")


async def test_a_sequence_that_does_not_fit(cluster: Cluster) -> None:
    """Only a broken coordinator sends one. The last token that is sampled takes no position."""
    async with found(cluster) as roster:
        with pytest.raises(WireError, match="3 tokens and 63 more do not fit the stage's 64"):
            await expect_answer(roster, "ada", "bob", max_tokens=POSITIONS - 1)
        await expect_answer(roster, "ada", "bob", max_tokens=POSITIONS - 2)
