"""What a cancellation leaves alone: long computations, and steps that are whole or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")


async def in_background(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises, from a thread of its own.

    asyncio.to_thread has Ctrl-C wait until its thread ends, for the minutes that a large search may
    take. This thread is left alone once the caller is cancelled, and ends with the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def run() -> None:
        try:
            _tell(loop, done.set_result, done, work())
        except BaseException as error:  # noqa: BLE001 -- it is raised where it is waited for
            _tell(loop, done.set_exception, done, error)

    threading.Thread(target=run, name="background", daemon=True).start()
    return await done


async def whole(work: Coroutine[Any, Any, Result]) -> Result:
    """What a short piece of work returns or raises; one cancellation waits until it is done."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    finally:
        await asyncio.wait({task})


Value = TypeVar("Value")


def _tell(
    loop: asyncio.AbstractEventLoop,
    settle: Callable[[Value], None],
    done: asyncio.Future[Result],
    value: Value,
) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(lambda: None if done.done() else settle(value))
