"""A survey over agents in this process: what is kept is used, the rest is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import in_process_agents
import pytest
from equivalence.tiny_models import CONFIGS, NUM_LAYERS, config_dict
from in_process_agents import CPU, Agent, found, running_agents

from edgepipe.agent import stage_servicer
from edgepipe.coordinator import borrowing
from edgepipe.coordinator.surveying import Surveyed, nics_of, survey
from edgepipe.coordinator.worker_calls import WorkerCalls
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.profile import Address, NodeId, NodeProfile
from edgepipe.core.speed import DeviceSpeed, Link
from edgepipe.core.weight_format import WeightFormat
from edgepipe.engine.torch.probe import model_shape
from edgepipe.errors import StageLost, Unreachable
from edgepipe.wire.v1 import agent_pb2, stage_pb2

CONFIG = config_dict(CONFIGS["llama, tied"])
SHAPE = model_shape("tiny", CONFIG)
WORKLOAD = Workload(dtype=DType.FLOAT32, num_slots=1, max_positions=64, prefill_chunk=16)
DEADLINE_S = 60


@dataclass(kw_only=True)
class Watched:
    """Everything that was asked of a worker, and what a person was shown."""

    profiled: list[str] = field(default_factory=list)
    linked: list[tuple[str, str]] = field(default_factory=list)
    shown: list[tuple[str, int, int]] = field(default_factory=list)

    def measuring(self, what: str, done: int, total: int) -> None:
        self.shown.append((what, done, total))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()
    profile, measure_link = WorkerCalls.profile, WorkerCalls.measure_link

    async def count_profile(self: WorkerCalls, *args: Any) -> Any:
        watched.profiled.append(self.who)
        return await profile(self, *args)

    async def count_link(self: WorkerCalls, *args: Any, **kwargs: Any) -> Any:
        watched.linked.append((self.who, kwargs["node"]))
        return await measure_link(self, *args, **kwargs)

    monkeypatch.setattr(WorkerCalls, "profile", count_profile)
    monkeypatch.setattr(WorkerCalls, "measure_link", count_link)
    return watched


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[list[Agent]]:
    async with running_agents(2, tmp_path) as agents:
        yield agents


async def surveyed(
    agents: Sequence[Agent], home: Path, watched: Watched, **changes: Any
) -> Surveyed:
    async with asyncio.timeout(DEADLINE_S), found(agents) as roster:
        options: dict[str, Any] = {"workload": WORKLOAD, "home": home, "now_s": 1.0}
        return await survey(roster, CONFIG, SHAPE, progress=watched, **{**options, **changes})


async def test_every_free_device_is_measured_and_every_link(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    """Devices of one kind on one host share their figures: one of them is measured."""
    found = await surveyed(agents, tmp_path, watched)
    assert [device.node for device in found.survey.devices] == ["node-0", "node-1"]
    assert watched.profiled == ["node-0 (cpu)"]
    assert watched.linked == [("node-0 (cpu)", "node-1")]
    for speed in found.survey.speeds:
        assert len(speed.items) == NUM_LAYERS + 2
        assert all(item.decode.at(1) >= 0 for item in speed.items)
    pairs = {(link.sender, link.receiver) for link in found.survey.links}
    assert pairs == {("node-0", "node-1"), ("node-1", "node-0")}
    assert all(link.bytes_per_s > 0 < link.latency_s for link in found.survey.links)
    assert found.survey.nics == {}, "loopback has no NIC"
    assert (found.left_out, found.unlinked, found.num_measured) == ((), (), 2)
    assert watched.shown[0][0] == "node-0 (cpu)"
    assert watched.shown[-1] == ("node-1 to node-0", 2, 2)
    assert all(agent.book.view(CPU) is None for agent in agents), "and given back"


async def test_of_two_engines_the_faster_one_is_planned_with(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    def faster(speeds: Sequence[DeviceSpeed]) -> DeviceSpeed:
        assert [speed.engine for speed in speeds] == ["torch", "onnx"]
        return speeds[1]

    async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
        measured = await survey(
            roster,
            {**CONFIG, "hidden_size": 64, "intermediate_size": 96, "head_dim": 32},
            SHAPE,
            workload=WORKLOAD,
            engines=("torch", "onnx"),
            faster=faster,
            home=tmp_path,
            now_s=1.0,
            progress=watched,
        )
    assert watched.profiled == ["node-0 (cpu)"] * 2
    assert [speed.engine for speed in measured.survey.speeds] == ["onnx"]
    assert measured.device_keys["node-0", CPU].engine == "onnx"


async def test_blocks_with_offsets_are_measured_where_an_engine_keeps_them(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    """ONNX Runtime, and as 4 bits; the other engine, and 8 bits, round anew."""
    cases = (("onnx", "int4", True), ("onnx", "int8", False), ("torch", "int4", False))
    for engine, weight_format, offsets in cases:
        async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
            measured = await survey(
                roster,
                {**CONFIG, "hidden_size": 64, "intermediate_size": 96, "head_dim": 32},
                SHAPE,
                workload=replace(WORKLOAD, weight_format=WeightFormat(weight_format)),
                engines=(engine,),
                offsets=True,
                home=tmp_path,
                now_s=1.0,
                progress=watched,
            )
        assert measured.left_out == ()
        assert measured.device_keys["node-0", CPU].offsets == offsets, (engine, weight_format)


async def test_an_engine_that_cannot_run_the_model_leaves_it_to_the_other(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    """Its heads are too narrow for ONNX Runtime's rotary kernel."""
    async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
        measured = await survey(
            roster,
            {**CONFIG, "head_dim": 8},
            SHAPE,
            workload=WORKLOAD,
            engines=("torch", "onnx"),
            home=tmp_path,
            now_s=1.0,
            progress=watched,
        )
    assert [speed.engine for speed in measured.survey.speeds] == ["torch"]
    assert measured.left_out == ()


async def test_a_device_without_the_engine_is_left_out_with_what_to_install(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_process_agents, "ENGINES", ("torch",))
    found = await surveyed(agents[:1], tmp_path, watched, engines=("onnx",))
    (out,) = found.left_out
    assert "pip install 'edgepipe[onnx]'" in out.reason
    assert watched.profiled == []


async def test_what_is_kept_is_not_measured_again(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    first = await surveyed(agents, tmp_path, watched)
    asked = len(watched.profiled) + len(watched.linked)
    again = await surveyed(agents, tmp_path, watched, now_s=2.0)
    assert len(watched.profiled) + len(watched.linked) == asked
    assert again.num_measured == 0
    assert (again.survey.speeds, again.survey.links) == (first.survey.speeds, first.survey.links)
    fresh = await surveyed(agents, tmp_path, watched, fresh=True)
    assert fresh.num_measured == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"workload": replace(WORKLOAD, num_slots=4)},
        {"workload": replace(WORKLOAD, dtype=DType.BFLOAT16)},
        {"sequence_length": 8},
        {"sequence_length": 8, "rank": 4},
    ],
    ids=["more slots", "another dtype", "training", "adapters"],
)
async def test_other_points_are_measured_for_themselves(
    agents: list[Agent], tmp_path: Path, watched: Watched, changes: dict[str, Any]
) -> None:
    await surveyed(agents[:1], tmp_path, watched)
    assert (await surveyed(agents[:1], tmp_path, watched, **changes)).num_measured == 1


async def test_a_longer_context_is_no_reason_to_measure_again(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    await surveyed(agents[:1], tmp_path, watched)
    longer = replace(WORKLOAD, max_positions=100)
    assert (await surveyed(agents[:1], tmp_path, watched, workload=longer)).num_measured == 0


async def test_a_model_of_millions_of_positions_is_measured_at_a_few(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
        long = replace(SHAPE, max_positions=10 << 20)
        options: dict[str, Any] = {"workload": WORKLOAD, "home": tmp_path, "now_s": 1.0}
        surveyed = await survey(roster, CONFIG, long, progress=watched, **options)
    assert (surveyed.num_measured, surveyed.left_out) == (1, ())


async def test_other_libraries_are_a_reason(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    await surveyed(agents[:1], tmp_path, watched)
    profile = agents[0].profile()
    newer = tuple(replace(device, libraries="torch 99") for device in profile.devices)
    async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
        (node,) = roster.nodes.values()
        changed = replace(node, profile=replace(profile, devices=newer))
        monkeypatch.setitem(roster.nodes, node.profile.id, changed)
        again = await survey(
            roster, CONFIG, SHAPE, workload=WORKLOAD, home=tmp_path, now_s=1.0, progress=watched
        )
    assert again.num_measured == 1


async def test_a_damaged_file_is_none(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    await surveyed(agents, tmp_path, watched)
    for path in (tmp_path / "profiles").iterdir():
        path.write_text(path.read_text()[:-20])
    assert (await surveyed(agents, tmp_path, watched)).num_measured == 2


async def test_figures_that_cannot_be_are_none(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    await surveyed(agents[:1], tmp_path, watched)
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_text(path.read_text().replace('"kinds": [\n', '"kinds": [\n 9,\n'))
    assert (await surveyed(agents[:1], tmp_path, watched)).num_measured == 1


async def test_a_home_that_cannot_be_written_is_named(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    (tmp_path / "profiles").write_text("in the way")
    found = await surveyed(agents[:1], tmp_path, watched)
    assert "cannot be kept in" in found.left_out[0].reason


async def test_figures_of_another_number_of_layers_are_none(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    await surveyed(agents[:1], tmp_path, watched)
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_text(path.read_text().replace('"kinds": [\n', '"kinds": [\n 0,\n'))
    assert (await surveyed(agents[:1], tmp_path, watched)).num_measured == 1


async def test_what_is_forgotten_is_measured_again(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    first = await surveyed(agents, tmp_path, watched)
    first.forget_device(tmp_path, "node-0", CPU)
    again = await surveyed(agents, tmp_path, watched)
    assert (len(watched.profiled), len(watched.linked)) == (2, 1)
    again.forget_link(tmp_path, "node-0", "node-1")
    again.forget_link(tmp_path, "node-0", "nobody")
    await surveyed(agents, tmp_path, watched)
    assert (len(watched.profiled), len(watched.linked)) == (2, 2)


async def test_a_leased_device_is_left_alone(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    await agents[0].book.acquire(CPU, "a job", "ada@desk", 30.0)
    found = await surveyed(agents, tmp_path, watched)
    assert [device.node for device in found.survey.devices] == ["node-1"]
    assert watched.profiled == ["node-1 (cpu)"]
    (left_out,) = found.left_out
    assert (left_out.node, left_out.reason) == (
        "node-0",
        "it is leased to job a job of ada@desk",
    )


async def test_only_the_nodes_that_matter_are_measured(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    found = await surveyed(agents, tmp_path, watched, nodes={"node-1"})
    assert [device.node for device in found.survey.devices] == ["node-1"]
    assert (watched.profiled, watched.linked) == (["node-1 (cpu)"], [])


async def test_a_device_that_is_taken_meanwhile_is_known_or_left_out(
    agents: list[Agent], tmp_path: Path, watched: Watched
) -> None:
    async with asyncio.timeout(DEADLINE_S), found(agents[:1]) as roster:
        await agents[0].book.acquire(CPU, "a job", "ada@desk", 30.0)
        options: dict[str, Any] = {
            "workload": WORKLOAD,
            "home": tmp_path,
            "now_s": 1.0,
            "progress": watched,
        }
        unknown = await survey(roster, CONFIG, SHAPE, **options)
        agents[0].book.release(CPU, 1)
        assert (await survey(roster, CONFIG, SHAPE, **options)).num_measured == 1
        await agents[0].book.acquire(CPU, "a job", "ada@desk", 30.0)
        known = await survey(roster, CONFIG, SHAPE, fresh=True, **options)
    (left_out,) = unknown.left_out
    assert (left_out.node, left_out.device) == ("node-0", CPU)
    assert "leased to job a job of ada@desk" in left_out.reason
    assert not unknown.survey.devices
    assert (len(known.survey.devices), known.left_out) == (1, ())


async def test_a_worker_that_dies_is_left_out_and_the_others_are_not(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = WorkerCalls.profile

    async def die(self: WorkerCalls, *args: Any) -> Any:
        if "node-0" in self.who:
            raise StageLost(f"{self.who}: its process died")
        return await profile(self, *args)

    monkeypatch.setattr(WorkerCalls, "profile", die)
    found = await surveyed(agents, tmp_path, watched)
    assert [device.node for device in found.survey.devices] == ["node-1"]
    assert [(each.node, each.reason) for each in found.left_out] == [("node-0", "its process died")]
    assert agents[0].book.view(CPU) is None


async def test_a_link_of_which_nonsense_is_told_is_named(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nonsense(*_: Any) -> stage_pb2.LinkMeasured:
        return stage_pb2.LinkMeasured(
            address=agent_pb2.Address(host="127.0.0.1", port=1), bytes_per_s=float("nan")
        )

    monkeypatch.setattr(stage_servicer, "measure_link", nonsense)
    found = await surveyed(agents, tmp_path, watched)
    assert found.survey.links == ()
    assert "nan bytes/s were measured" in found.unlinked[0].reason


async def test_a_pair_without_a_link_is_named(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: WorkerCalls, *_: Any, **__: Any) -> Any:
        raise Unreachable(f"{self.who}: nothing answers there")

    monkeypatch.setattr(WorkerCalls, "measure_link", fail)
    found = await surveyed(agents, tmp_path, watched)
    assert found.survey.links == ()
    assert [(each.sender, each.receiver, each.reason) for each in found.unlinked] == [
        ("node-0", "node-1", "node-0 (cpu): nothing answers there"),
        ("node-1", "node-0", "node-1 (cpu): nothing answers there"),
    ]


async def test_a_cancelled_survey_gives_its_leases_back_at_once(
    agents: list[Agent], tmp_path: Path, watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hang(*_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(WorkerCalls, "profile", hang)
    running = asyncio.create_task(surveyed(agents, tmp_path, watched))
    async with asyncio.timeout(DEADLINE_S):
        await begun.wait()
        assert any(agent.book.view(CPU) for agent in agents)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert not any(agent.book.view(CPU) for agent in agents)


def spot(name: str, host: str, *interfaces: str) -> borrowing.Spot:
    profile = NodeProfile(
        id=NodeId(name),
        name=name,
        version="1",
        api=1,
        cluster="c",
        host_id=host,
        addresses=tuple(
            Address(host=f"10.0.0.{i + 1}", port=1, interface=each)
            for i, each in enumerate(interfaces)
        ),
        devices=(),
    )
    node: Any = type("Node", (), {"profile": profile})()
    device: Any = type("Device", (), {"id": CPU, "port": 9})()
    return borrowing.Spot(node=node, device=device)


def link(sender: str, receiver: str, bytes_per_s: float) -> Link:
    return Link(sender=sender, receiver=receiver, bytes_per_s=bytes_per_s, latency_s=1e-3)


def test_a_hosts_nic_carries_what_its_best_link_does() -> None:
    spots = [
        spot("a", "A", "eth0"),
        spot("b", "A", "eth0"),
        spot("c", "C", "wlan0"),
        spot("d", "D"),
    ]
    nics = nics_of(
        spots,
        [
            link("a", "b", 900.0),
            link("a", "c", 10.0),
            link("b", "c", 12.0),
            link("c", "a", 8.0),
            link("a", "d", 100.0),
            link("d", "a", 90.0),
        ],
    )
    assert (nics["A"].send_bytes_per_s, nics["A"].receive_bytes_per_s) == (100.0, 90.0)
    assert (nics["C"].send_bytes_per_s, nics["C"].receive_bytes_per_s) == (8.0, 12.0)
    assert [nics[host].medium for host in "ACD"] == [None, "wifi", None]


def test_a_worker_is_reached_by_loopback_first_on_its_own_host() -> None:
    a, b, c = spot("a", "A", "eth0"), spot("b", "A", "eth0"), spot("c", "C", "eth0")
    assert [str(each) for each in a.reached_from(b)] == ["127.0.0.1:9", "10.0.0.1:9"]
    assert [str(each) for each in a.reached_from(c)] == ["10.0.0.1:9"]
