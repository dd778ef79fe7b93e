"""edgepipe.coordinator.generation over a real pipeline of emulated stages.

The tokens count up: after a prompt of n tokens come n - 1, n, n + 1 …, and token 7 reads " w7".
(tests/cluster/test_generation.py has the module's own name.)
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest
from in_process_agents import CPU, Agent, emulated_pipeline, found, running_agents
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models
from transformers import PreTrainedTokenizerFast

from edgepipe.coordinator import pipeline as pipelines
from edgepipe.coordinator.emulated import emulate, emulated_deployment
from edgepipe.coordinator.generation import Answer, Asked, ask, generate
from edgepipe.coordinator.pipeline import Pipeline, open_pipeline
from edgepipe.coordinator.progress import Silent
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.frame import FinishReason, SequenceId
from edgepipe.core.sampling import Sampling
from edgepipe.errors import LeaseHeld

DEADLINE_S = 20


def words() -> Tokenizer:
    names = [f"w{number}" for number in range(300)]
    backend = Backend(models.WordLevel({name: id_ for id_, name in enumerate(names)}, names[0]))
    backend.decoder = decoders.Fuse()
    inner = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=names[0])
    return Tokenizer(inner)


WORDS = words()


def asked(
    prompt_length: int = 5,
    *,
    sequence: int = 1,
    max_tokens: int = 6,
    eos_ids: Collection[int] = (),
    stops: Sequence[str] = (),
) -> Answer:
    wanted = Asked(
        sequence=SequenceId(sequence),
        prompt_ids=[1] * prompt_length,
        sampling=Sampling(),
        max_tokens=max_tokens,
        eos_ids=eos_ids,
        stops=stops,
    )
    return ask(WORDS, wanted)


@pytest.fixture
async def agents(tmp_path: Path) -> AsyncIterator[list[Agent]]:
    async with running_agents(2, tmp_path) as agents:
        yield agents


@pytest.fixture
async def pipeline(agents: list[Agent]) -> AsyncIterator[Pipeline]:
    async with asyncio.timeout(2 * DEADLINE_S), emulated_pipeline(agents) as pipeline:
        yield pipeline


async def pieces(pipeline: Pipeline, answer: Answer) -> list[str]:
    async with asyncio.timeout(DEADLINE_S):
        return [piece async for piece in generate(pipeline, answer)]


async def test_an_answer_is_streamed_token_by_token_and_filled_on_the_way(
    pipeline: Pipeline,
) -> None:
    answer = asked(5, max_tokens=4)
    shown = await pieces(pipeline, answer)
    assert "".join(shown) == answer.text == WORDS.decode([4, 5, 6, 7])
    assert answer.token_ids == [4, 5, 6, 7]
    assert answer.finish is FinishReason.LENGTH
    assert len(shown) == 4


async def test_an_eos_token_counts_but_is_not_shown(pipeline: Pipeline) -> None:
    answer = asked(5, max_tokens=100, eos_ids=[7])
    await pieces(pipeline, answer)
    assert (answer.token_ids, answer.finish) == ([4, 5, 6, 7], FinishReason.STOP)
    assert answer.text == WORDS.decode([4, 5, 6])


async def test_a_stop_string_ends_an_answer(pipeline: Pipeline) -> None:
    answer = asked(5, max_tokens=200, stops=["w8"])
    shown = await pieces(pipeline, answer)
    assert (answer.token_ids, answer.finish) == ([4, 5, 6, 7, 8], FinishReason.STOP)
    assert "".join(shown).strip() == answer.text.strip()
    assert "w8" not in answer.text


async def test_answers_at_once_do_not_mix_and_more_than_there_are_slots_take_turns(
    pipeline: Pipeline,
) -> None:
    answers = [asked(3 + index, sequence=index + 1, max_tokens=8) for index in range(6)]
    await asyncio.gather(*(pieces(pipeline, answer) for answer in answers))
    assert [answer.token_ids for answer in answers] == [
        list(range(2 + index, 10 + index)) for index in range(6)
    ]


@pytest.mark.parametrize("stops", [(), ("w8",)])
async def test_what_is_not_wanted_any_more_makes_room_for_the_next(
    agents: list[Agent], stops: tuple[str, ...]
) -> None:
    """There is one slot. A listener goes away, or a stop string came: the rest is cancelled."""
    async with emulated_pipeline(agents, num_slots=1) as pipeline:
        listening = generate(pipeline, asked(5, max_tokens=240, stops=stops))
        async with asyncio.timeout(DEADLINE_S):
            while stops and await anext(listening, None) is not None:
                pass
            await anext(listening, None)
            await listening.aclose()
        after = asked(5, sequence=2, max_tokens=3)
        await pieces(pipeline, after)
        assert after.token_ids == [4, 5, 6]
        assert pipeline.num_tokens < 200


async def test_an_answer_is_timed_from_the_request_and_from_the_first_token(
    agents: list[Agent],
) -> None:
    answer = asked(20, max_tokens=5)
    assert (answer.ttft_s, answer.tokens_per_s) == (0.0, 0.0)
    async with emulated_pipeline(agents, stage_s=[0.01]) as pipeline:
        await pieces(pipeline, answer)
    chunks, stages = 2, 2
    assert answer.ttft_s >= (chunks + stages - 1) * 0.01
    assert 0 < answer.tokens_per_s <= 1 / (stages * 0.01)


async def test_the_rate_of_a_single_token_is_that_of_the_whole(pipeline: Pipeline) -> None:
    answer = asked(max_tokens=1)
    await pieces(pipeline, answer)
    assert answer.tokens_per_s == pytest.approx(1 / answer.ttft_s)


# ----------------------------------------------------------------------------- its devices


async def test_the_devices_are_held_for_as_long_as_the_pipeline_lives(agents: list[Agent]) -> None:
    async with emulated_pipeline(agents) as pipeline:
        views = [agent.book.view(CPU) for agent in agents]
        assert [view and view.job for view in views] == [pipeline.deployment.job] * 2
    assert [agent.book.view(CPU) for agent in agents] == [None, None]


async def test_a_job_that_is_refused_keeps_no_device(
    agents: list[Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "BACK_OFF_S", 0.001)
    async with found(agents) as roster:
        deployment = emulated_deployment(
            emulate(roster, num_stages=2, stage_s=[0.0]),
            num_slots=1,
            max_positions=8,
            prefill_chunk=8,
            codec=None,
        )
        await agents[1].book.acquire(CPU, "another", "ann@attic", 30.0)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(LeaseHeld, match="leased to job another of ann@attic"):
                async with open_pipeline(deployment, roster.nodes, Silent()):
                    pass
    assert agents[0].book.view(CPU) is None
