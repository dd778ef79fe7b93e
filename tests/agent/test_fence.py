from __future__ import annotations

import asyncio

import pytest

from edgepipe.agent import fence as fences
from edgepipe.agent.fence import Fence
from edgepipe.errors import LeaseLost

DEADLINE_S = 10


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fences, "PATIENCE_S", 0.02)


async def told(number: int) -> Fence:
    fence = Fence()
    await fence.set(number)
    return fence


async def turns_of_the_loop() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_current_lease_may_pass() -> None:
    fence = await told(7)
    await fence.require(7)
    await fence.require(7)


async def test_a_caller_that_is_faster_than_the_supervisors_word_waits_for_it() -> None:
    fence = Fence()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(fence.require(7))
        await turns_of_the_loop()
        assert not waiting.done()
        await fence.set(6)
        await turns_of_the_loop()
        assert not waiting.done()
        await fence.set(7)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("current", "asked"), [(0, 7), (6, 7), (0, 0), (6, 0)])
async def test_a_lease_that_nobody_granted_is_refused_soon(current: int, asked: int) -> None:
    fence = await told(current)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(LeaseLost, match=r"^this device is not leased to the caller; acquire"):
            await fence.require(asked)


async def test_a_superseded_lease_is_refused_at_once() -> None:
    fence = await told(8)
    async with asyncio.timeout(fences.PATIENCE_S / 2):
        with pytest.raises(LeaseLost, match=r"^the lease was superseded by a later one"):
            await fence.require(7)


async def test_a_caller_that_waits_is_told_when_a_later_lease_comes_instead() -> None:
    fence = Fence()
    waiting = asyncio.create_task(fence.require(7))
    await turns_of_the_loop()
    await fence.set(9)
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(LeaseLost, match="superseded"):
            await waiting


@pytest.mark.parametrize("then", [0, 8])
async def test_a_lease_is_lost_when_it_expires_or_is_superseded(then: int) -> None:
    fence = await told(7)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        lost = tasks.create_task(fence.lost(7))
        await fence.set(7)
        await turns_of_the_loop()
        assert not lost.done()
        await fence.set(then)


async def test_a_lease_that_was_lost_before_anyone_looked_is_lost() -> None:
    fence = await told(8)
    async with asyncio.timeout(DEADLINE_S):
        await fence.lost(7)


async def test_everyone_who_waits_is_told() -> None:
    fence = await told(7)
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        for _ in range(3):
            tasks.create_task(fence.lost(7))
            tasks.create_task(fence.require(8))
        await turns_of_the_loop()
        await fence.set(8)
