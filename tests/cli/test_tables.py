from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from on_paper import GIB, llama, machine, surveyed
from rich.console import Console, RenderableType

from edgepipe.cli.plan_tables import rivals_table
from edgepipe.cli.tables import nodes_table, plan_table
from edgepipe.coordinator.node_rows import NodeRow, nodes_json
from edgepipe.core.fit import Workload
from edgepipe.core.frame import DType
from edgepipe.core.pipeline import Plan
from edgepipe.core.plan import plan
from edgepipe.core.posing import Asked
from edgepipe.core.profile import Address, LeaseView, NodeId, NodeProfile, NodeState
from edgepipe.core.work import Batch, Objective, Strategy, TrainMode, Work

DESK = (
    machine("desk", "cuda:0", limit=6 * GIB).device,
    replace(
        machine("desk", "cuda:1", limit=12 * GIB).device,
        lease=LeaseView(job="chat-7f3a", holder="ann@laptop", fence=4, expires_in_s=21.5),
    ),
)


def profile(name: str, *devices: object) -> NodeProfile:
    return NodeProfile(
        id=NodeId(f"id-{name}"), name=name, version="0.1.0", api=1, cluster="home", host_id=name,
        addresses=(), devices=devices,  # type: ignore[arg-type]
    )  # fmt: skip


ROWS = (
    NodeRow(
        profile=profile("attic", replace(machine("attic").device, slowdown=2.0)),
        name="attic",
        addresses=(Address(host="192.168.1.20", port=7070), Address(host="fd00::20", port=7070),
                   Address(host="10.0.0.3", port=7070)),
        state=NodeState.ALIVE,
    ),
    NodeRow(profile=profile("desk", *DESK), name="desk", state=NodeState.ALIVE,
            addresses=(Address(host="192.168.1.21", port=7070),)),
    NodeRow(profile=None, name="pi", state=NodeState.UNUSABLE, reason="its port is closed",
            addresses=(Address(host="192.168.1.22", port=7070),)),
    NodeRow(profile=profile("shed", machine("shed").device), name="shed", state=NodeState.SUSPECT,
            addresses=(), reason="silent for 3 s"),
)  # fmt: skip


def make_work(num_slots: int = 1) -> Work:
    workload = Workload(
        dtype=DType.FLOAT32, num_slots=num_slots, max_positions=4096, prefill_chunk=128
    )
    return Work(objective=Objective.LATENCY, workload=workload)


def make_plan(limit: int = 2 * GIB, num_slots: int = 4, slowness: tuple[float, ...] = ()) -> Plan:
    devices = (machine("attic", limit=limit), machine("cellar"), machine("desk", "cuda:0"))
    model = llama()
    asked = Asked.of(
        model,
        surveyed(model, (*devices, machine("pi", limit=GIB)), slowness),
        make_work(num_slots),
        nodes=("attic", "cellar", "desk"),
    )
    return plan(asked, strategy=Strategy.EQUAL)


def render(renderable: RenderableType, *, width: int = 100, terminal: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, legacy_windows=False)
    console.print(renderable)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


@pytest.mark.parametrize(
    ("name", "renderable"),
    [
        ("table_nodes", nodes_table(ROWS)),
        ("table_no_nodes", nodes_table(())),
        ("table_plan", plan_table(make_plan())),
        ("table_plan_short", plan_table(make_plan(limit=GIB // 2))),
        ("table_rivals", rivals_table(make_plan(slowness=(1.0, 4.0, 2.0, 1.0)))),
    ],
)
def test_golden(name: str, renderable: RenderableType, golden: Callable[[str, str], None]) -> None:
    golden(name, render(renderable))


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("renderable", [nodes_table(ROWS), plan_table(make_plan())])
def test_nothing_is_cut_off_at_80_columns(renderable: RenderableType, width: int) -> None:
    text = render(renderable, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for word in ("attic", "desk", "cuda:0"):
        assert word in text


def test_a_training_plan_tells_its_batch_and_shows_what_is_in_flight() -> None:
    model = llama()
    work = replace(make_work(), objective=Objective.TRAIN, batch=Batch(mode=TrainMode.FULL))
    asked = Asked.of(model, surveyed(model, (machine("attic", limit=64 * GIB),)), work)
    found = plan(asked, strategy=Strategy.EXACT, rivals=())
    text = render(plan_table(found), width=140)
    assert f"full, 8 sequences of 512 tokens in {found.microbatches} microbatches: it fits" in text
    (stage,) = found.stages
    full = replace(found, stages=(replace(stage, memory_limit_bytes=stage.memory_bytes),))
    row = next(line for line in render(plan_table(full), width=140).splitlines() if "attic" in line)
    assert stage.inflight_bytes > stage.memory_bytes / 10
    assert "·" not in row


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[32m" in render(nodes_table(ROWS), terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in render(nodes_table(ROWS), terminal=True)


def test_a_console_without_unicode_gets_other_signs() -> None:
    buffer = io.BytesIO()
    with io.TextIOWrapper(buffer, encoding="ascii") as stream:
        console = Console(file=stream, width=100)
        console.print(plan_table(make_plan()))
        console.print(nodes_table(ROWS))
        stream.flush()
        assert b"====" in buffer.getvalue()


def test_names_of_other_machines_are_neither_markup_nor_escapes() -> None:
    row = replace(ROWS[2], name="[red]x\x1b[2J", reason="a\nb")
    text = render(nodes_table((row,)))
    assert "[red]x?[2J" in text
    assert "a?b" in text
    assert "\x1b" not in text


def test_nodes_json_has_the_contracts_shape() -> None:
    document = json.loads(json.dumps(nodes_json(ROWS)))
    attic, desk, pi, shed = document["nodes"]
    assert attic.keys() == {"id", "name", "addresses", "version", "state", "devices"}
    assert attic["addresses"] == ["192.168.1.20:7070", "[fd00::20]:7070", "10.0.0.3:7070"]
    assert attic["devices"][0].keys() >= {
        "id", "kind", "name", "memory_bytes", "memory_free_bytes", "engines",
    }  # fmt: skip
    assert "lease" not in desk["devices"][0]
    assert desk["devices"][1]["lease"]["holder"] == "ann@laptop"
    assert (pi["state"], pi["reason"], pi["devices"]) == ("unusable", "its port is closed", [])
    assert shed["reason"] == "silent for 3 s"
