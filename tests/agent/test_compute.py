from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Awaitable, Iterator
from functools import partial
from typing import TypeVar

import pytest

from edgepipe.agent.compute import ComputeThread

DEADLINE_S = 10
Result = TypeVar("Result")


@pytest.fixture
def compute() -> Iterator[ComputeThread]:
    with ComputeThread("test compute") as thread:
        yield thread


async def soon(awaitable: Awaitable[Result]) -> Result:
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


async def test_a_result_comes_back_from_the_one_thread_of_that_name(compute: ComputeThread) -> None:
    def where() -> tuple[str, int]:
        return threading.current_thread().name, threading.get_ident()

    first, second = await soon(compute.run(where)), await soon(compute.run(where))
    assert first == second
    assert first[0] == "test compute"
    assert first[1] != threading.get_ident()


async def test_calls_run_one_after_another_in_the_order_given(compute: ComputeThread) -> None:
    running, order = threading.Lock(), []

    def work(number: int) -> None:
        assert running.acquire(blocking=False), "two calls at once"
        order.append(number)
        running.release()

    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        for number in range(100):
            tasks.create_task(compute.run(partial(work, number)))
    assert order == list(range(100))


async def test_a_fault_that_futures_refuse_comes_back_too(compute: ComputeThread) -> None:
    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        await soon(compute.run(lambda: next(iter(()))))
    assert isinstance(caught.value.__cause__, StopIteration)


async def test_the_loop_goes_on_while_a_call_runs(compute: ComputeThread) -> None:
    go = threading.Event()
    running = asyncio.create_task(compute.run(lambda: go.wait(DEADLINE_S)))
    await asyncio.sleep(0)
    assert not running.done()
    go.set()
    assert await soon(running)


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(3)])
async def test_an_error_is_its_callers_and_the_thread_goes_on(
    compute: ComputeThread, error: BaseException
) -> None:
    def fail() -> None:
        raise error

    async def caught() -> BaseException | None:
        try:
            await compute.run(fail)
        except BaseException as raised:  # noqa: BLE001
            return raised
        return None

    assert await soon(caught()) is error
    assert await soon(compute.run(lambda: 1)) == 1


async def test_a_caller_that_was_cancelled_does_not_disturb_the_next(
    compute: ComputeThread,
) -> None:
    go, ran = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(DEADLINE_S)
        ran.set()

    waiting = asyncio.create_task(compute.run(work))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting}, timeout=DEADLINE_S)
    assert waiting.cancelled()
    go.set()
    assert await soon(compute.run(ran.is_set)), "what had begun was carried to its end"


async def test_a_result_is_not_kept_once_it_was_handed_over(compute: ComputeThread) -> None:
    class Tensor:
        pass

    tensor = await soon(compute.run(Tensor))
    gone = weakref.ref(tensor)
    del tensor
    await soon(compute.run(lambda: None))
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


async def test_an_idle_thread_does_not_keep_the_last_result(compute: ComputeThread) -> None:
    """A stage's weights hang on the call that loaded them."""

    class Engine:
        gone = threading.Event()

        def __del__(self) -> None:
            self.gone.set()

    engine = await soon(compute.run(Engine))
    del engine
    gc.collect()
    assert await asyncio.to_thread(Engine.gone.wait, DEADLINE_S)


def test_a_call_that_outlives_its_loop_ends_quietly(compute: ComputeThread) -> None:
    go, done = threading.Event(), threading.Event()

    def work() -> None:
        go.wait(DEADLINE_S)

    async def begin() -> None:
        task = asyncio.ensure_future(compute.run(work))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(begin())
    go.set()

    async def still_serves() -> None:
        await soon(compute.run(done.set))

    asyncio.run(still_serves())
    assert done.is_set()


def test_the_thread_ends_when_it_is_left() -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "ends soon"]

    with ComputeThread("ends soon"):
        (thread,) = threads()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()
