"""What is kept on disk of devices and links: what comes back, what cannot be, what is dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgepipe.coordinator.profiles import (
    DeviceEntry,
    DeviceKey,
    LinkEntry,
    LinkKey,
    Profiles,
    device_key,
    known_as,
)
from edgepipe.coordinator.surveying import Surveyed
from edgepipe.core.candidates import Candidate
from edgepipe.core.frame import DType
from edgepipe.core.measured import Items, Measured, Measurement
from edgepipe.core.profile import (
    Address,
    DeviceId,
    DeviceKind,
    DeviceProfile,
    NodeId,
    NodeProfile,
)
from edgepipe.core.speed import Curve, DeviceSpeed, ItemSpeed, Link
from edgepipe.core.survey import Survey

NODES = ("a", "b")
CPU = DeviceId("cpu")
ITEM = ItemSpeed(decode=Curve(rows=(1,), seconds=(0.01,)), attention_s=1e-7)
ASKED = Measurement(
    dtype=DType.FLOAT32, num_slots=1, max_positions=64, prefill_chunk=16, memory_bytes=1 << 30
)
DEVICE = DeviceProfile(
    id=CPU,
    kind=DeviceKind.CPU,
    name="a processor",
    pool="host",
    memory_bytes=1 << 30,
    memory_free_bytes=1 << 30,
    memory_limit_bytes=1 << 30,
    baseline_bytes=0,
    port=1,
    num_threads=1,
    engines=("torch",),
)
LINKS = {
    (a, b): LinkKey(sender=a, receiver=b, address="10.0.0.1")
    for a in NODES
    for b in NODES
    if a != b
}


def key(node: str) -> DeviceKey:
    return device_key({"hidden_size": 8}, ASKED, machine_of(node), DEVICE)


def machine_of(node: str) -> NodeProfile:
    """A node that others reach, which is known by its id."""
    return NodeProfile(
        id=NodeId(node), name=node, version="0", api=1, cluster="home", host_id="some boot",
        addresses=(Address(host="192.168.1.20", port=1),), devices=(DEVICE,),
    )  # fmt: skip


@pytest.fixture
def profiles(tmp_path: Path) -> Profiles:
    """Of two devices and the links between them."""
    profiles = Profiles(home=tmp_path)
    for node in NODES:
        measured = Measured(items=Items(kinds=(0,), layers=(ITEM,), embedding=ITEM, head=ITEM))
        profiles.keep(DeviceEntry(measured_at_s=1.0, key=key(node), measured=measured))
    for link in LINKS.values():
        profiles.keep(LinkEntry(measured_at_s=1.0, key=link, bytes_per_s=1e8, latency_s=1e-3))
    return profiles


def known(profiles: Profiles) -> list[str]:
    return [node for node in NODES if profiles.device(key(node))] + [
        f"{a} > {b}" for (a, b), link in LINKS.items() if profiles.link(link)
    ]


def test_what_is_kept_comes_back(profiles: Profiles) -> None:
    assert known(profiles) == ["a", "b", "a > b", "b > a"]
    assert (len(profiles.devices()), len(profiles.links())) == (2, 2)


@pytest.mark.parametrize(
    ("figure", "nonsense", "left"),
    [
        *(
            ('"bytes_per_s": 100000000.0', f'"bytes_per_s": {each}', ["a", "b"])
            for each in ("0", "-5.0", "NaN", "Infinity", '"fast"', "true")
        ),
        ('"latency_s": 0.001', '"latency_s": NaN', ["a", "b"]),
        ('"attention_s": 1e-07', '"attention_s": NaN', ["a > b", "b > a"]),
        ('"overhead_s": 0.0', '"overhead_s": -1.0', ["a > b", "b > a"]),
        ("0.01", "Infinity", ["a > b", "b > a"]),
    ],
)
def test_figures_that_cannot_be_are_none(
    profiles: Profiles, figure: str, nonsense: str, left: list[str]
) -> None:
    for path in (profiles.home / "profiles").iterdir():
        path.write_text(path.read_text().replace(figure, nonsense))
    assert known(profiles) == left


def test_a_file_under_another_name_is_none(profiles: Profiles) -> None:
    """It is of another key than its name tells: somebody changed what it says that it is of."""
    for path in (profiles.home / "profiles").iterdir():
        path.rename(path.with_stem("0" * 8 + path.stem[8:]))
    assert (profiles.devices(), profiles.links()) == ((), ())


@pytest.mark.parametrize(
    ("overhead_s", "receiver", "left"),
    [
        (0.0, "b", ["a", "b", "b > a"]),
        (1.0, "b", ["b", "b > a"]),
        (0.0, "a", ["b", "a > b", "b > a"]),
    ],
    ids=["the link", "its sender's runtime too", "of a stage that is alone only that"],
)
def test_a_hop_is_predicted_from_its_link_and_the_senders_runtime(
    profiles: Profiles, overhead_s: float, receiver: str, left: list[str]
) -> None:
    speed = DeviceSpeed(items=(ITEM, ITEM, ITEM), overhead_s=overhead_s)
    surveyed = Surveyed(
        survey=Survey(
            devices=tuple(Candidate(node=node, device=DEVICE, host=node) for node in NODES),
            speeds=(speed, speed),
            links=tuple(
                Link(sender=a, receiver=b, bytes_per_s=1e8, latency_s=1e-3) for a, b in LINKS
            ),
        ),
        device_keys={(node, CPU): key(node) for node in NODES},
        link_keys=LINKS,
    )
    surveyed.forget_hop(profiles.home, ("a", CPU), (receiver, CPU))
    assert known(profiles) == left


def test_a_node_is_known_after_a_reboot_and_private_agents_by_their_machine() -> None:
    node = machine_of("attic")
    assert known_as(node) == known_as(replace(node, host_id="another boot"))
    private = replace(node, addresses=(Address(host="127.0.0.1", port=1),))
    assert known_as(private) == known_as(replace(private, id=NodeId("another")))
