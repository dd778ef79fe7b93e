"""Parked weights, with the emulated engine on a real compute thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from edgepipe.agent import parking as parkings
from edgepipe.agent.compute import ComputeThread
from edgepipe.agent.parking import Parking
from edgepipe.core.frame import DType, Span
from edgepipe.engine.base import Engine, StageSpec
from edgepipe.engine.emulated import EmulatedEngine
from edgepipe.errors import ModelError

DEADLINE_S = 10
GOOD = {"forward_s": 0, "hidden_size": 4, "vocab_size": 8}


@dataclass
class Garage:
    """A parking, and the engines that were made for it."""

    compute: ComputeThread
    parking: Parking
    made: list[EmulatedEngine] = field(default_factory=list)

    async def load(self, key: str, options: dict[str, Any] = GOOD) -> Engine:
        async with asyncio.timeout(DEADLINE_S):
            engine, _ = await self.parking.load(key, self._make, spec(options), no_progress)
        return engine

    def _make(self) -> Engine:
        self.made.append(EmulatedEngine())
        return self.made[-1]

    async def is_loaded(self, engine: Engine) -> bool:
        """Whether it works, asked after everything the thread has to do."""
        span = Span(slot=0, start=0, count=1)

        def works() -> bool:
            try:
                engine.forward([span], torch.zeros(1, dtype=torch.int64))
            except AssertionError:
                return False
            return True

        async with asyncio.timeout(DEADLINE_S):
            return await self.compute.run(works)


def no_progress(_done: int, _total: int) -> None:
    pass


def spec(options: dict[str, Any]) -> StageSpec:
    return StageSpec(
        config={},
        first=0,
        end=1,
        embedding=True,
        head=False,
        dtype=DType.FLOAT32,
        num_slots=1,
        max_positions=8,
        options=options,
    )


@pytest.fixture
def garage() -> Iterator[Garage]:
    with ComputeThread("test parking") as compute:
        yield Garage(compute, Parking(compute))


@pytest.fixture
def parked_for(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    return lambda seconds: monkeypatch.setattr(parkings, "PARKED_S", seconds)


async def test_the_next_job_of_the_same_stage_loads_nothing(garage: Garage) -> None:
    first = await garage.load("a")
    garage.parking.park()
    assert await garage.load("a") is first
    assert len(garage.made) == 1
    assert await garage.is_loaded(first)


async def test_another_stage_takes_the_place_of_what_was_parked(garage: Garage) -> None:
    first = await garage.load("a")
    garage.parking.park()
    second = await garage.load("b")
    assert second is not first
    assert not await garage.is_loaded(first)
    assert await garage.is_loaded(second)


async def test_what_is_cleared_is_gone(garage: Garage) -> None:
    first = await garage.load("a")
    await garage.parking.clear()
    await garage.parking.clear()
    assert not await garage.is_loaded(first)
    assert await garage.load("a") is not first


async def test_parked_weights_go_when_their_time_is_up(
    garage: Garage, parked_for: Callable[[float], None]
) -> None:
    parked_for(0.01)
    engine = await garage.load("a")
    garage.parking.park()
    async with asyncio.timeout(DEADLINE_S):
        while await garage.is_loaded(engine):
            pass
    assert await garage.load("a") is not engine


async def test_a_job_that_comes_in_time_stops_the_clock(
    garage: Garage, parked_for: Callable[[float], None]
) -> None:
    parked_for(0.02)
    engine = await garage.load("a")
    garage.parking.park()
    assert await garage.load("a") is engine
    past = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, past.set)
    await past.wait()
    assert await garage.is_loaded(engine)


@pytest.mark.parametrize("turns", range(6))
async def test_a_job_never_gets_weights_that_are_about_to_go(
    garage: Garage, parked_for: Callable[[float], None], turns: int
) -> None:
    """It comes a turn of the loop before, while, or after their time is up."""
    parked_for(0)
    await garage.load("a")
    garage.parking.park()
    for _ in range(turns):
        await asyncio.sleep(0)
    engine = await garage.load("a")
    for _ in range(3):
        await asyncio.sleep(0)
    assert await garage.is_loaded(engine)


async def test_a_stage_that_does_not_load_leaves_nothing_behind(garage: Garage) -> None:
    old = await garage.load("a")
    garage.parking.park()
    with pytest.raises(ModelError):
        await garage.load("b", {**GOOD, "hidden_size": -1})
    assert not await garage.is_loaded(old)
    assert not await garage.is_loaded(garage.made[-1])
    assert await garage.is_loaded(await garage.load("b"))


async def test_a_load_that_is_cut_off_is_unloaded_once_it_is_through(garage: Garage) -> None:
    loading = asyncio.create_task(garage.load("a"))
    await asyncio.sleep(0)
    loading.cancel()
    await asyncio.wait({loading}, timeout=DEADLINE_S)
    assert loading.cancelled()
    assert not await garage.is_loaded(garage.made[0])
    assert await garage.load("a") is not garage.made[0]
