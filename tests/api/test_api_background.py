"""The loop between calls: results, errors and interruptions reach whoever waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from edgepipe.api.background import Background
from edgepipe.errors import ModelError

BACKGROUND = Background()


def test_a_result_comes_back_and_so_does_an_error() -> None:
    async def double(number: int) -> int:
        if number < 0:
            raise ModelError("there is no such model: name another")
        return 2 * number

    assert BACKGROUND.run(double(4)) == 8
    with pytest.raises(ModelError, match="name another"):
        BACKGROUND.run(double(-1))


def test_what_is_told_is_heard_in_the_callers_thread_and_in_order() -> None:
    heard: list[tuple[int, str]] = []

    async def count(tell: Callable[[int], None]) -> str:
        for number in range(3):
            tell(number)
            await asyncio.sleep(0)
        return "done"

    def hear(number: int) -> None:
        heard.append((number, threading.current_thread().name))

    assert BACKGROUND.run_telling(count, hear) == "done"
    assert heard == [(number, threading.current_thread().name) for number in range(3)]


def test_who_hears_and_raises_has_the_work_give_back_what_it_holds() -> None:
    ended = threading.Event()

    async def hold(tell: Callable[[int], None]) -> None:
        try:
            tell(1)
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    def hear(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BACKGROUND.run_telling(hold, hear)
    assert ended.is_set()


def test_a_cancelled_task_is_not_waited_for_for_ever() -> None:
    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        BACKGROUND.run(give_up())
