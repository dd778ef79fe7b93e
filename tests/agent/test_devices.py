from __future__ import annotations

import json
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from edgepipe import __version__
from edgepipe.agent import devices
from edgepipe.agent.configuration import load_settings
from edgepipe.agent.devices import (
    Device,
    choose,
    cpu_device,
    find_devices,
    libraries,
    memory_now,
    offer,
)
from edgepipe.agent.host import host_id, machine_id
from edgepipe.agent.memory import MemoryNow, num_cores
from edgepipe.agent.settings import AgentSettings
from edgepipe.core.profile import DeviceId, DeviceKind
from edgepipe.errors import NodeError, UsageError

GIB = 2**30
DETECTED = [
    {
        "id": "cuda:0",
        "kind": "cuda",
        "name": "NVIDIA GeForce RTX 3060",
        "uuid": "00000000-0000-0000-0000-000000000000",
        "is_unified": False,
        "memory_bytes": 12 * GIB,
        "memory_free_bytes": 10 * GIB,
    },
    {
        "id": "cuda:1",
        "kind": "cuda",
        "name": "Orin",
        "uuid": "",
        "is_unified": True,
        "memory_bytes": 8 * GIB,
        "memory_free_bytes": 6 * GIB,
    },
]
RTX, ORIN = devices.parse_detected(b"some library's greeting\n" + json.dumps(DETECTED).encode())
CPU = Device(
    id=DeviceId("cpu"),
    kind=DeviceKind.CPU,
    name="EPYC",
    memory=MemoryNow(total_bytes=4 * GIB, free_bytes=2 * GIB),
    is_unified=True,
)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path))


def settings(**flags: object) -> AgentSettings:
    return load_settings(flags)


def test_all_gpus_are_offered_else_the_cpu() -> None:
    assert choose((RTX, ORIN, CPU), ()) == (RTX, ORIN)
    assert choose((CPU,), ()) == (CPU,)


def test_wanted_devices_come_in_the_order_wanted_once() -> None:
    assert choose((RTX, ORIN, CPU), ("cpu", "cuda:0", "cpu")) == (CPU, RTX)


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(UsageError, match="no device 'mps' here, only cuda:0, cuda:1, cpu"):
        choose((RTX, ORIN, CPU), ("mps",))


async def test_the_cpu_alone_needs_no_detection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")
    (device,) = await find_devices(settings(device=["cpu"]))
    assert (device.id, device.pool) == ("cpu", "host")
    assert device.name


async def test_torch_lists_what_this_machine_has() -> None:
    """On a machine without a GPU that is the CPU; where there is one, it is offered."""
    found = await find_devices(settings())
    kinds = {device.kind for device in found}
    assert kinds == {DeviceKind.CPU} or DeviceKind.CPU not in kinds
    assert all(0 < device.memory.free_bytes <= device.memory.total_bytes for device in found)


async def test_a_broken_torch_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so: no such file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(NodeError, match=r"list its devices \(ImportError: libcudart.*--device cpu"):
        await find_devices(settings())


def test_the_supervisors_pieces_import_no_torch() -> None:
    code = "import sys, edgepipe.agent.devices, edgepipe.agent.configuration as c; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unified_devices_share_the_hosts_pool() -> None:
    profiles = offer((RTX, ORIN, CPU), settings())
    assert [profile.pool for profile in profiles] == ["cuda:0", "host", "host"]


def test_a_share_of_what_is_free_is_offered_unless_told_otherwise() -> None:
    (gpu,) = offer((RTX,), settings())
    assert gpu.memory_limit_bytes == int(0.9 * 10 * GIB)
    (cpu,) = offer((cpu_device(),), settings())
    assert cpu.memory_limit_bytes == int(0.8 * cpu.memory_free_bytes)
    gpu, orin = offer((RTX, ORIN), settings(memory=["2GiB", "cuda:1=1GiB"]))
    assert (gpu.memory_limit_bytes, orin.memory_limit_bytes) == (2 * GIB, GIB)


@pytest.mark.parametrize(
    ("memory", "sentence"),
    [
        ("13GiB", r"--memory gives cuda:0 13.0 GiB, but it has only 12.0 GiB"),
        ("mps=1GiB", r"--memory names 'mps', but this agent offers only cuda:0"),
    ],
)
def test_memory_that_is_not_there_is_refused(memory: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        offer((RTX,), settings(memory=[memory]))


def test_threads_are_the_cores_for_a_cpu_and_a_few_for_a_gpu() -> None:
    gpu, cpu = offer((RTX, CPU), settings())
    assert cpu.num_threads == num_cores()
    assert gpu.num_threads == min(4, num_cores())
    assert {p.num_threads for p in offer((RTX, CPU), settings(threads=7, slowdown=2.0))} == {7}


def test_a_gpu_whose_driver_cannot_be_asked_keeps_its_first_figure() -> None:
    assert memory_now(RTX) == RTX.memory
    assert memory_now(ORIN).total_bytes == 8 * GIB


def test_this_host_has_one_id_per_network_namespace() -> None:
    assert host_id() == host_id()
    assert len(host_id()) == 16


def test_a_machine_is_the_same_for_all_hosts_on_it() -> None:
    assert machine_id() == machine_id()
    assert len(machine_id()) == 16
    assert machine_id() != host_id() or platform.system() != "Linux"


def test_the_libraries_that_compute_are_named_without_importing_them() -> None:
    found = {"torch": version("torch"), "transformers": version("transformers")}
    words = [f"edgepipe {__version__}", *(f"{name} {each}" for name, each in found.items())]
    assert libraries().startswith(", ".join(words))
