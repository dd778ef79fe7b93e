"""Who waits while there is no pipeline, and who is told that there is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from coordinator.chat_tokenizers import byte_tokenizer

from edgepipe.coordinator.models import GenerationDefaults
from edgepipe.core.admission import FrontDesk
from edgepipe.core.sampling import Sampling
from edgepipe.serve.asking import Served, Wanted
from edgepipe.serve.backend import Backend
from edgepipe.serve.errors import Refusal, unavailable
from edgepipe.serve.metrics import Metrics
from edgepipe.serve.pieces import Broken

WANTED = Wanted(prompt_ids=[1], sampling=Sampling(), max_tokens=4, stops=())
REASON = "small needs 1.2 GiB more on ada (cpu)"
DEADLINE_S = 20


@pytest.fixture
async def backend() -> AsyncIterator[Backend]:
    """One whose pipeline is gone, and in which nobody has any patience."""
    desk = FrontDesk(num_slots=1, max_waiting=1, patience_s=0)
    served = Served(
        name="small",
        names={"small"},
        created_s=0,
        max_positions=64,
        vocab_size=256,
        eos_ids=(),
        generation=GenerationDefaults(),
    )
    found = Backend(tokenizer=byte_tokenizer(), served=served, desk=desk, metrics=Metrics(desk))
    found.missing(REASON)
    patience = asyncio.create_task(found.keep_patience())
    yield found
    patience.cancel()


async def test_who_has_waited_for_too_long_is_told_what_is_lacking(backend: Backend) -> None:
    async with (
        asyncio.timeout(DEADLINE_S),
        backend.answering([WANTED, WANTED], tells_tokens=False) as inbox,
    ):
        news = await inbox.get()
    assert isinstance(news, Broken)
    assert str(news.refusal) == f"The server is looking for machines: {REASON}"
    assert (news.refusal.status, news.refusal.retry_after_s) == (503, 2)
    assert backend.desk.num_waiting == 0


async def test_no_more_wait_than_may(backend: Backend) -> None:
    async with backend.answering([WANTED, WANTED], tells_tokens=False):
        with pytest.raises(Refusal, match="0 answers are being generated and 2 wait"):
            async with backend.answering([WANTED], tells_tokens=False):
                pass


async def test_a_server_that_stops_tells_those_who_wait(backend: Backend) -> None:
    stopping = unavailable("The server is stopping.")
    async with backend.answering([WANTED], tells_tokens=False) as inbox:
        backend.end(stopping)
        assert await inbox.get() == Broken(refusal=stopping)
    with pytest.raises(Refusal, match="The server is stopping"):
        async with backend.answering([WANTED], tells_tokens=False):
            pass
