"""The book around edgepipe.core.lease (see tests/core/test_lease.py for the rules of a lease)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgepipe.agent.home import EphemeralIdentity, open_identity
from edgepipe.agent.lease_book import FenceStore, LeaseBook
from edgepipe.core.profile import DeviceId
from edgepipe.errors import LeaseHeld, LeaseLost, UsageError

CPU, GPU = DeviceId("cpu"), DeviceId("cuda:0")
DEADLINE_S = 10


class Worker:
    """What the workers were told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[DeviceId, int]] = []
        self.heard = asyncio.Event()

    def tell(self, device: DeviceId, fence: int) -> None:
        self.told.append((device, fence))
        self.heard.set()


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def book(worker: Worker) -> LeaseBook:
    return LeaseBook([CPU, GPU], EphemeralIdentity(), worker.tell)


async def acquire(
    book: LeaseBook, device: DeviceId = CPU, *, job: str = "job-1", ttl_s: float = 30.0
) -> int:
    granted = await book.acquire(device, job, "ann@attic", ttl_s)
    assert granted.ttl_s == ttl_s
    return granted.fence


async def test_a_grant_is_told_to_its_worker_and_shown_to_others(
    book: LeaseBook, worker: Worker
) -> None:
    fence = await acquire(book)
    assert worker.told == [(CPU, fence)]
    assert (book.fence(CPU), book.fence(GPU)) == (fence, 0)
    view = book.view(CPU)
    assert view is not None
    assert (view.job, view.holder, view.fence) == ("job-1", "ann@attic", fence)
    assert 29 < view.expires_in_s <= 30
    assert book.view(GPU) is None


async def test_a_second_job_is_told_whose_the_device_is_and_the_worker_nothing(
    book: LeaseBook, worker: Worker
) -> None:
    await acquire(book)
    with pytest.raises(LeaseHeld, match="leased to job job-1 of ann@attic"):
        await acquire(book, job="job-2")
    assert len(worker.told) == 1


async def test_a_released_device_is_free_for_the_next_under_a_higher_fence(
    book: LeaseBook, worker: Worker
) -> None:
    first = await acquire(book)
    book.release(CPU, first)
    assert (book.view(CPU), book.fence(CPU)) == (None, 0)
    second = await acquire(book, job="job-2")
    assert worker.told == [(CPU, first), (CPU, 0), (CPU, second)]
    assert second > first
    with pytest.raises(LeaseLost):
        book.release(CPU, first)
    with pytest.raises(LeaseLost):
        book.renew(CPU, first, 0)


async def test_a_job_that_asks_again_supersedes_itself(book: LeaseBook, worker: Worker) -> None:
    first = await acquire(book)
    second = await acquire(book)
    assert worker.told == [(CPU, first), (CPU, second)]
    with pytest.raises(LeaseLost, match="superseded"):
        book.renew(CPU, first, 1)
    assert book.renew(CPU, second, 1) == 30.0


async def test_an_unknown_device_is_refused_before_a_fence_is_spent(book: LeaseBook) -> None:
    with pytest.raises(UsageError, match="no device 'mps'"):
        await acquire(book, DeviceId("mps"))
    assert await acquire(book) == 1


async def test_fences_go_on_rising_after_a_restart(tmp_path: Path, worker: Worker) -> None:
    with open_identity(tmp_path, "attic") as identity:
        fence = await acquire(LeaseBook([CPU], identity, worker.tell))
    with open_identity(tmp_path, "attic") as identity:
        assert await acquire(LeaseBook([CPU], identity, worker.tell)) == fence + 1


class SlowDisk:
    """A fence store whose disk answers when it is let."""

    def __init__(self) -> None:
        self.last_fence = 0
        self.asked = threading.Semaphore(0)
        self.lets = threading.Semaphore(0)
        self.broken = False

    def save_fence(self, fence: int) -> None:
        self.asked.release()
        assert self.lets.acquire(timeout=DEADLINE_S)
        if self.broken:
            raise OSError("no space left")
        self.last_fence = fence


@contextmanager
def on_slow_disk(worker: Worker) -> Iterator[tuple[LeaseBook, SlowDisk]]:
    disk = SlowDisk()
    store: FenceStore = disk
    yield LeaseBook([CPU, GPU], store, worker.tell), disk
    disk.lets.release(10)


async def saving(disk: SlowDisk) -> None:
    """Return once the disk was asked once more."""
    assert await asyncio.to_thread(disk.asked.acquire, timeout=DEADLINE_S)


async def test_a_fence_is_on_disk_before_anyone_hears_of_it(worker: Worker) -> None:
    with on_slow_disk(worker) as (book, disk):
        asking = asyncio.create_task(acquire(book))
        await saving(disk)
        assert not asking.done()
        assert (worker.told, book.view(CPU)) == ([], None)
        disk.lets.release()
        async with asyncio.timeout(DEADLINE_S):
            assert await asking == disk.last_fence == 1
        assert worker.told == [(CPU, 1)]


async def test_two_at_once_get_two_fences_and_one_of_them_the_device(worker: Worker) -> None:
    with on_slow_disk(worker) as (book, disk):
        disk.lets.release(10)
        async with asyncio.timeout(DEADLINE_S):
            first, second, third = await asyncio.gather(
                acquire(book, CPU, job="a"),
                acquire(book, GPU, job="b"),
                acquire(book, CPU, job="c"),
                return_exceptions=True,
            )
        assert (first, second) == (1, 2)
        assert isinstance(third, LeaseHeld)


async def test_what_was_released_or_renewed_while_a_fence_was_saved_stays_so(
    worker: Worker,
) -> None:
    with on_slow_disk(worker) as (book, disk):
        disk.lets.release()
        fence = await acquire(book, GPU)
        await saving(disk)
        asking = asyncio.create_task(acquire(book, CPU, job="job-2"))
        await saving(disk)
        book.release(GPU, fence)
        disk.lets.release()
        async with asyncio.timeout(DEADLINE_S):
            await asking
        assert book.view(GPU) is None
        assert book.view(CPU) is not None


async def test_a_disk_that_fails_grants_nothing(worker: Worker) -> None:
    with on_slow_disk(worker) as (book, disk):
        disk.broken = True
        disk.lets.release()
        with pytest.raises(OSError, match="no space left"):
            await acquire(book)
        assert (worker.told, book.view(CPU)) == ([], None)
        disk.broken = False
        disk.lets.release()
        assert await acquire(book) == 1


async def test_a_lease_that_is_not_renewed_ends_and_its_worker_is_told(
    book: LeaseBook, worker: Worker
) -> None:
    """Beside it one that is renewed and one that lasts longer; both live on."""
    expiring = asyncio.create_task(book.expire())
    await asyncio.sleep(0)
    long = await acquire(book, GPU, job="job-2")
    short = await acquire(book, ttl_s=1.0)
    worker.told.clear()
    worker.heard.clear()
    async with asyncio.timeout(DEADLINE_S):
        await worker.heard.wait()
    assert worker.told == [(CPU, 0)]
    assert (book.fence(CPU), book.fence(GPU)) == (0, long)
    with pytest.raises(LeaseLost):
        book.renew(CPU, short, 5)
    expiring.cancel()


async def test_renewal_puts_the_end_off(book: LeaseBook, worker: Worker) -> None:
    loop = asyncio.get_running_loop()
    expiring = asyncio.create_task(book.expire())
    fence = await acquire(book, ttl_s=1.0)
    half = asyncio.Event()
    loop.call_later(0.5, half.set)
    await half.wait()
    book.renew(CPU, fence, 1)
    renewed_s = loop.time()
    worker.heard.clear()
    async with asyncio.timeout(DEADLINE_S):
        await worker.heard.wait()
    assert worker.told[-1] == (CPU, 0)
    assert loop.time() - renewed_s >= 0.99
    expiring.cancel()
