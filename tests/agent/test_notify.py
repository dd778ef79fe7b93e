from __future__ import annotations

import asyncio
import os
import secrets
import socket
from pathlib import Path

import pytest

from edgepipe.agent.notify import Notifier

DEADLINE_S = 10


def listener(address: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    found.bind(address.replace("@", "\0", 1))
    found.settimeout(DEADLINE_S)
    return found


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"edgepipe-{secrets.token_hex(4)}"
    return f"@{name}" if request.param == "abstract" else str(tmp_path / name)


async def test_each_word_is_one_datagram(address: str) -> None:
    notifier = Notifier(address=address)
    with listener(address) as heard:
        notifier.ready("ready for all")
        notifier.status("one leased")
        notifier.stopping(1.5)
        words = [heard.recv(4096).decode().splitlines() for _ in range(3)]
    assert words == [
        ["READY=1", "STATUS=ready for all"],
        ["STATUS=one leased"],
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=1500000"],
    ]


async def test_it_is_well_only_as_often_as_it_was_found_well(address: str) -> None:
    notifier = Notifier(address=address, watchdog_s=1e-3)
    well = asyncio.Queue[None]()
    for _ in range(3):
        well.put_nowait(None)
    with listener(address) as heard:
        watching = asyncio.create_task(notifier.watch(well.get))
        async with asyncio.timeout(DEADLINE_S):
            words = [await asyncio.to_thread(heard.recv, 64) for _ in range(3)]
        heard.settimeout(0.1)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(heard.recv, 64)
        watching.cancel()
    assert words == [b"WATCHDOG=1"] * 3


async def test_nobody_is_told_where_nobody_asks(tmp_path: Path) -> None:
    notifier = Notifier.of({})
    assert notifier == Notifier(address="", watchdog_s=None)
    notifier.ready("")
    await notifier.watch(asyncio.Event().wait)  # type: ignore[arg-type]  # never called
    Notifier(address=str(tmp_path / "gone")).ready("")  # whoever listened is gone


@pytest.mark.parametrize(
    ("pid", "usec", "watchdog_s"),
    [
        (str(os.getpid()), "2000000", 2.0),
        ("", "500000", 0.5),
        ("1", "2000000", None),
        ("", "0", None),
        ("", "soon", None),
    ],
    ids=["ours", "unnamed", "of another", "off", "no number"],  # the same in every test process
)
def test_how_long_silence_is_borne(pid: str, usec: str, watchdog_s: float | None) -> None:
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_PID": pid, "WATCHDOG_USEC": usec}
    assert Notifier.of(environment) == Notifier(address="@x", watchdog_s=watchdog_s)
