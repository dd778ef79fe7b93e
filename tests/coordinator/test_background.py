"""Long computations beside the event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from edgepipe.coordinator.background import in_background

DEADLINE_S = 10


async def test_what_it_returns_and_raises_arrives() -> None:
    assert await in_background(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await in_background(lambda: 1 // 0)


async def test_who_gives_up_does_not_wait_for_it() -> None:
    begun, may_end, is_over = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(DEADLINE_S)
        is_over.set()

    waiting = asyncio.create_task(in_background(work))
    await asyncio.to_thread(begun.wait, DEADLINE_S)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not is_over.is_set()
    may_end.set()
    assert await asyncio.to_thread(is_over.wait, DEADLINE_S)
