"""A thread for blocking work, driven from the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
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
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def settle(result: Result) -> None:
            if not future.done():
                future.set_result(result)

        def fail(error: BaseException) -> None:
            if not future.done():
                future.set_exception(_settable(error))

        self.submit(call, settle, fail)
        return await future

    def submit(
        self,
        call: Callable[[], Result],
        done: Callable[[Result], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        """Run `call` on the thread, then `done` with its result on the event loop.

        What either of them raises goes to `failed`, on the event loop.
        """
        loop = asyncio.get_running_loop()

        def finish(result: Result) -> None:
            try:
                done(result)
            except BaseException as error:  # noqa: BLE001 -- carried over to the caller
                failed(error)

        def serve() -> None:
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 -- carried over to the caller
                _post(loop, failed, error)
            else:
                _post(loop, finish, result)

        self._calls.put(serve)

    def run_into(self, call: Callable[[], Result], future: Future[Result]) -> None:
        """Run `call` on the thread; its result or its error is the future's, for other threads."""

        def serve() -> None:
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 -- carried over to who waits
                future.set_exception(error)

        self._calls.put(serve)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
            del call  # or its result would live until the next one comes


def _settable(error: BaseException) -> BaseException:
    """A future refuses StopIteration, and whoever awaits it would wait for ever."""
    if not isinstance(error, StopIteration):
        return error
    fault = RuntimeError("StopIteration was raised")
    fault.__cause__ = error
    return fault


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[[Any], None], value: object) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(callback, value)
