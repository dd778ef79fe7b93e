"""The event loop on which a program's clusters live, in a thread of its own.

It turns between calls too: leases are renewed while the program does something else. There is one
in a process, since gRPC's poller serves one loop.

program's thread ── run(main) ──▶ a task of the loop
        ▲                              │
        └── result, or its exception ──┘    Ctrl-C in the program cancels the task and waits for it
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any, TypeVar

from edgepipe.transport.loop import new_loop

Result = TypeVar("Result")
Event = TypeVar("Event")

CANCEL_S = 30.0
"""How long what was interrupted may take to give back what it holds."""


class Background:
    """The loop. Its methods are for other threads than its own."""

    def __init__(self) -> None:
        self._loop = new_loop()
        threading.Thread(target=self._loop.run_forever, name="edgepipe", daemon=True).start()

    def run(self, main: Coroutine[Any, Any, Result]) -> Result:
        """What `main` returns or raises. What interrupts the wait cancels it."""
        with self._begun(main) as outcome:
            return outcome.result()

    def run_telling(
        self,
        main: Callable[[Callable[[Event], None]], Coroutine[Any, Any, Result]],
        hear: Callable[[Event], None],
    ) -> Result:
        """The same; `hear` gets in this thread what `main` tells; if it raises, `main` ends."""
        events: SimpleQueue[Event | None] = SimpleQueue()
        with self._begun(main(events.put)) as outcome:
            outcome.add_done_callback(lambda _: events.put(None))
            while (event := events.get()) is not None:
                hear(event)
            return outcome.result()

    @contextmanager
    def _begun(self, main: Coroutine[Any, Any, Result]) -> Iterator[Future[Result]]:
        outcome: Future[Result] = Future()
        tasks: list[asyncio.Task[Result]] = []

        def begin() -> None:
            tasks.append(self._loop.create_task(main))
            tasks[0].add_done_callback(lambda task: _settle(outcome, task))

        def cancel() -> None:
            tasks[0].cancel()

        self._loop.call_soon_threadsafe(begin)
        try:
            yield outcome
        except BaseException:
            if not outcome.done():
                self._loop.call_soon_threadsafe(cancel)
                wait([outcome], timeout=CANCEL_S)
            raise


def _settle(outcome: Future[Result], task: asyncio.Task[Result]) -> None:
    if task.cancelled():
        outcome.set_exception(asyncio.CancelledError())
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())


@cache
def background() -> Background:
    """The one of this process; it begins with the first cluster and ends with the process."""
    return Background()
