"""A thread for blocking work, awaited from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class ComputeThread:
    """Runs callables one after another on one thread of its own.

    Lighter than an executor (one hop each way): a decoded token crosses it on every stage.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.put(None)

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run `call` on the thread; its result or its error is this coroutine's."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()

        def serve() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 -- carried over to the awaiting task
                self._reply(loop, future.set_exception, future, error)
            else:
                self._reply(loop, future.set_result, future, result)

        self._calls.put(serve)
        return await future

    @staticmethod
    def _reply(
        loop: asyncio.AbstractEventLoop,
        settle: Callable[[Any], None],
        future: asyncio.Future[Any],
        value: object,
    ) -> None:
        def reply() -> None:
            if not future.done():
                settle(value)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(reply)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # or its result would live until the next one comes
