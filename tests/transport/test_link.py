"""What every link promises, whatever carries it."""

import asyncio

import pytest
from carriers import CARRIERS
from wire_frames import TOKENS, rows

from edgepipe.errors import StageLost, WireError

DEADLINE_S = 10


@pytest.fixture(params=CARRIERS)
def connected(request):
    """A context that gives two connected ends, each granting `credits` frames."""
    return CARRIERS[request.param]


async def soon(awaitable):
    async with asyncio.timeout(DEADLINE_S):
        return await awaitable


async def test_frames_arrive_in_order_both_ways(connected):
    async with connected(4) as (up, down):
        for step in range(4):
            up.send(rows(3, step=step, seed=step))
            down.send(TOKENS)
        for step in range(4):
            frame = await soon(down.receive())
            assert frame.header.step == step
            assert frame.payload == rows(3, seed=step).payload
            assert (await soon(up.receive())).header.sampled == TOKENS.header.sampled


async def test_a_frame_of_many_chunks_arrives_whole(connected):
    async with connected(1) as (up, down):
        large = rows(1 << 12, dim=384)
        up.send(large)
        assert (await soon(down.receive())).payload == large.payload


async def test_a_frame_waits_for_a_credit_and_not_for_more(connected):
    async with connected(2) as (up, down):
        for step in range(4):
            up.send(rows(1, step=step))
        assert (await soon(down.receive())).header.step == 0
        assert (await soon(down.receive())).header.step == 1
        third = asyncio.create_task(down.receive())
        down.send(TOKENS)  # a whole turn of the wheel, and the third has not moved
        await soon(up.receive())
        assert not third.done()
        down.consumed()
        assert (await soon(third)).header.step == 2


async def test_more_frames_than_credits_and_queue_allow_break_the_schedules_promise(connected):
    async with connected(1) as (up, _):
        up.send(rows(1))
        up.send(rows(1))
        with pytest.raises(AssertionError):
            up.send(rows(1))


async def test_ready_waits_for_a_credit(connected):
    async with connected(1) as (up, down):
        await soon(up.ready())
        up.send(rows(1))
        waiting = asyncio.create_task(up.ready())
        await soon(down.receive())
        assert not waiting.done()
        down.consumed()
        await soon(waiting)


async def test_credits_overtake_a_large_frame(connected):
    async with connected(1) as (up, down):
        down.send(rows(1 << 14, dim=384))
        up.send(rows(1))
        await soon(down.receive())
        down.consumed()
        await soon(up.ready())


async def test_a_payload_that_does_not_match_its_header_is_never_sent(connected):
    async with connected(1) as (up, _):
        frame = rows(2)
        with pytest.raises(WireError, match="announces"):
            up.send(frame._replace(header=frame.header._replace(shape=(1, 16))))


async def test_what_was_sent_before_closing_arrives_and_then_the_loss_is_known(connected):
    async with connected(2) as (up, down):
        up.send(rows(1, step=1))
        up.send(rows(1, step=2))
        await soon(up.close())
        assert (await soon(down.receive())).header.step == 1
        assert (await soon(down.receive())).header.step == 2
        with pytest.raises(StageLost):
            await soon(down.receive())
        with pytest.raises(StageLost):
            down.send(rows(1))
        with pytest.raises(StageLost):
            up.send(rows(1))


async def test_the_far_end_may_close_too(connected):
    async with connected(2) as (up, down):
        down.send(TOKENS)
        await soon(down.close())
        await soon(up.receive())
        with pytest.raises(StageLost):
            await soon(up.receive())


async def test_who_waits_learns_of_a_close(connected):
    async with connected(1) as (up, down):
        waiting = asyncio.create_task(down.receive())
        await soon(up.close())
        with pytest.raises(StageLost):
            await soon(waiting)


async def test_closing_twice_or_after_the_peer_is_fine(connected):
    async with connected(1) as (up, down):
        await soon(up.close())
        await soon(down.close())
        await soon(up.close())


async def test_closing_does_not_wait_for_a_peer_that_gives_no_credit(connected):
    async with connected(1) as (up, _):
        up.send(rows(1))
        up.send(rows(1))
        await soon(up.close())


async def test_the_loop_stays_awake_while_large_frames_arrive(connected):
    async with connected(2) as (up, down):
        loop = asyncio.get_running_loop()
        longest = 0.0

        async def beat():
            nonlocal longest
            last = loop.time()
            while True:
                await asyncio.sleep(0)
                longest, last = max(longest, loop.time() - last), loop.time()

        beating = asyncio.create_task(beat())
        for _ in range(3):
            up.send(rows(1 << 13, dim=512))
            await soon(down.receive())
            down.consumed()
        beating.cancel()
        assert longest < 0.1  # 5 ms alone; the machine may be busy
