"""A ring of runners in one process: real links, threads and engines.

Greedy tokens of a tiny random model, cut into stages, are those of transformers' generate().
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from equivalence.tiny_models import (
    CONFIGS,
    Parts,
    Pipeline,
    random_model,
    random_tokens,
    reference_logits,
    write_parts,
)
from one_process_ring import (
    emulated,
    running_ring,
)

from edgepipe.agent import runner as runners
from edgepipe.core.frame import (
    Codec,
    FinishReason,
)
from edgepipe.core.sampling import Sampling
from edgepipe.engine.base import Engine

HIDDEN = 48
CUTS = {1: (), 2: (1,), 3: (1, 3)}
NEAR_TIE = 1e-4
"""CONTRACT "Comparing": two logits this close may change places."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Of torch, beside the threads of the stages: the tiny model gains nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(CONFIGS["llama, untied, grouped queries"])


Generated = tuple[list[int], list[float]]
Generate = Callable[..., Generated]


@pytest.fixture(scope="module")
def generate(model: Any) -> Generate:
    """transformers' greedy tokens, and by how much the best logit led at each."""

    @cache
    def generate(length: int, max_tokens: int, eos_id: int | None = None) -> Generated:
        input_ids = torch.tensor([prompt_of(length)])
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=eos_id,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        leads = [float(-logits[0].topk(2).values.diff()) for logits in output.logits]
        return output.sequences[0, length:].tolist(), leads

    return generate


@pytest.fixture(scope="module")
def parts(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder: Path = tmp_path_factory.mktemp("parts")
    return write_parts(model, folder)


@pytest.fixture(scope="module", params=CUTS)
def engines(request: pytest.FixtureRequest, parts: Parts) -> list[Engine]:
    """The model on 1, 2 and 3 stages; what one test leaves in the cache is the next one's past."""
    return list(Pipeline(parts, CUTS[request.param], max_positions=64).engines)


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every payload takes the way of a large one: coded on a thread of its own."""
    monkeypatch.setattr(runners, "INLINE_BYTES", -1)


def prompt_of(length: int) -> list[int]:
    return random_tokens(length, seed=length).tolist()


def assert_same(found: list[int], reference: Generated) -> None:
    for step, (token, expected) in enumerate(zip(found, reference[0], strict=False)):
        if token != expected:
            assert reference[1][step] <= NEAR_TIE, (step, found, reference[0])
            return
    assert len(found) == len(reference[0])


# ------------------------------------------------------------------------------- equal tokens


@pytest.mark.parametrize("num_groups", [1, 2])
async def test_several_sequences_at_once_get_the_tokens_of_one_process(
    engines: list[Engine], generate: Generate, num_groups: int
) -> None:
    """Prompts shorter and longer than a chunk, and one sequence more than there are slots."""
    lengths, max_tokens = [1, 4, 11, 6], 10
    async with running_ring(engines, HIDDEN, num_slots=3, num_groups=num_groups) as ring:
        for length in lengths:
            ring.admit(length, prompt_of(length), max_tokens=max_tokens)
        for length in lengths:
            found = await ring.tokens(length)
            assert [token.position for token in found] == [
                length + step for step in range(max_tokens)
            ]
            assert found[-1].finish is FinishReason.LENGTH
            reference = generate(length, max_tokens)
            assert_same([token.token for token in found], reference)


@pytest.mark.usefixtures("all_large")
async def test_frames_coded_on_a_thread_of_their_own_give_the_same_tokens(
    engines: list[Engine], generate: Generate
) -> None:
    async with running_ring(engines, HIDDEN, num_slots=2, num_groups=2) as ring:
        for length in (9, 14):
            ring.admit(length, prompt_of(length), max_tokens=8)
        for length in (9, 14):
            reference = generate(length, 8)
            assert_same(await ring.token_ids(length), reference)


async def test_an_eos_token_ends_a_sequence_where_it_ends_it_in_one_process(
    engines: list[Engine], generate: Generate
) -> None:
    eos_id = generate(7, 6)[0][4]
    reference = generate(7, 30, eos_id)
    async with running_ring(engines, HIDDEN) as ring:
        ring.admit(1, prompt_of(7), max_tokens=30, eos_ids=[eos_id])
        found = await ring.tokens(1)
    assert found[-1].finish is FinishReason.STOP
    assert found[-1].token == eos_id
    assert_same([token.token for token in found], reference)


async def test_a_cancelled_sequence_disturbs_nobody_and_makes_room(
    engines: list[Engine], generate: Generate
) -> None:
    async with running_ring(engines, HIDDEN, num_slots=2) as ring:
        ring.admit(1, prompt_of(5), max_tokens=50)
        ring.admit(2, prompt_of(8), max_tokens=12)
        ring.admit(3, prompt_of(10), max_tokens=6)
        for _ in range(3):
            await ring.next(1)
        ring.cancel(1)
        for sequence, length, max_tokens in ((3, 10, 6), (2, 8, 12)):
            reference = generate(length, max_tokens)
            assert_same(await ring.token_ids(sequence), reference)
        assert ring.outcomes[1].qsize() < 40, "it did not go on to its end"


async def test_a_sequence_may_be_cancelled_in_the_middle_of_its_prompt(
    engines: list[Engine], generate: Generate
) -> None:
    async with running_ring(engines, HIDDEN, num_slots=1, prefill_chunk=1) as ring:
        ring.admit(1, prompt_of(40), max_tokens=9)
        ring.admit(2, prompt_of(6), max_tokens=5)
        await asyncio.sleep(0)
        ring.cancel(1)
        assert_same(await ring.token_ids(2), generate(6, 5))
        assert ring.outcomes[1].empty()


async def test_tokens_drawn_at_random_depend_on_seed_and_position_alone(
    engines: list[Engine], parts: Parts
) -> None:
    """Not on the number of stages, on the company, or on what was cached before."""
    sampling = Sampling(temperature=0.7, top_p=0.9, seed=11)
    alone = list(Pipeline(parts, (), max_positions=64).engines)
    async with running_ring(alone, HIDDEN, prefill_chunk=16) as ring:
        ring.admit(1, prompt_of(9), max_tokens=10, sampling=sampling)
        expected = await ring.token_ids(1)
    async with running_ring(engines, HIDDEN, prefill_chunk=3) as ring:
        ring.admit(2, prompt_of(3), max_tokens=20, sampling=Sampling(temperature=1.0, seed=5))
        ring.admit(1, prompt_of(9), max_tokens=10, sampling=sampling)
        assert await ring.token_ids(1) == expected
    assert len(set(expected)) > 3


async def test_guesses_leave_the_tokens_as_they_are_and_save_turns_of_the_ring(
    engines: list[Engine],
) -> None:
    """Of a vocabulary of two words the text soon repeats itself."""
    sampling = Sampling(logit_bias=((7, 100.0), (9, 100.0)))
    texts, turns = [], []
    for max_draft in (0, 7):
        async with running_ring(engines, HIDDEN, max_draft=max_draft, prefill_chunk=8) as ring:
            ring.admit(1, prompt_of(5), max_tokens=50, sampling=sampling)
            found = await ring.tokens(1)
            turns.append(ring.runners[0].num_frames)
        assert [token.position for token in found] == list(range(5, 55))
        assert found[-1].finish is FinishReason.LENGTH
        texts.append([token.token for token in found])
    assert texts[0] == texts[1]
    assert turns[0] == 50
    assert turns[1] < 25


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.7, top_p=0.9, seed=11),
        Sampling(frequency_penalty=0.3, presence_penalty=0.1, num_likely=2),
    ],
)
async def test_tokens_depend_on_no_guess_however_they_are_sampled(
    engines: list[Engine], sampling: Sampling
) -> None:
    prompt, found = [7, 8, 9] * 4, []
    for max_draft in (0, 7):
        async with running_ring(engines, HIDDEN, max_draft=max_draft, prefill_chunk=8) as ring:
            ring.admit(1, prompt, max_tokens=30, sampling=sampling)
            found.append(await ring.tokens(1))
    assert [token.token for token in found[0]] == [token.token for token in found[1]]
    assert all(len(token.likely) == (sampling.num_likely or 0) for token in found[1])


async def test_a_prompt_that_is_cached_already_is_not_computed_again(
    engines: list[Engine], generate: Generate
) -> None:
    reference = generate(24, 6)
    async with running_ring(engines, HIDDEN, num_slots=1) as ring:
        frames = []
        for sequence in (1, 2):
            ring.admit(sequence, prompt_of(24), max_tokens=6)
            assert_same(await ring.token_ids(sequence), reference)
            frames.append(ring.runners[-1].num_frames)
    assert frames == [6 + 5, 6 + 5 + 1 + 5], "six chunks, then one of two tokens"


async def test_the_logits_of_a_prompt_are_those_of_one_process(
    engines: list[Engine], model: Any
) -> None:
    prompt = prompt_of(10)
    async with running_ring(engines, HIDDEN) as ring:
        ring.admit(1, prompt, max_tokens=1, prompt_logits=True)
        chunks = await ring.logits(1, len(prompt))
        (token,) = await ring.token_ids(1)
    assert [chunk.start for chunk in chunks] == [0, 4, 8]
    rows = np.concatenate([chunk.rows for chunk in chunks])
    expected = reference_logits(model, torch.tensor(prompt)).numpy()
    np.testing.assert_allclose(rows, expected, atol=1e-4)
    assert token == rows[-1].argmax()


# ------------------------------------------------------------------------------------ the ring


@pytest.mark.parametrize("num_stages", [1, 2, 3])
async def test_sequences_that_come_one_after_another_find_the_ring_as_it_was(
    num_stages: int,
) -> None:
    async with running_ring(emulated(num_stages), 8, num_slots=1) as ring:
        for sequence in range(3):
            ring.admit(sequence, [1] * 6, max_tokens=5)
            assert await ring.token_ids(sequence) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("codec", Codec)
async def test_large_frames_keep_their_order_and_their_shape(codec: Codec) -> None:
    """Chunks of 128 KiB and decoded rows of 8 KiB, each coded where it is cheapest."""
    engines = emulated(3, hidden_size=2048)
    async with running_ring(engines, 2048, codec=codec, prefill_chunk=16) as ring:
        for sequence in range(3):
            ring.admit(sequence, [1] * (20 + sequence), max_tokens=6)
        for sequence in range(3):
            last = 19 + sequence
            assert await ring.token_ids(sequence) == list(range(last, last + 6))


async def test_groups_keep_all_stages_busy_at_once() -> None:
    """Three groups on three stages of 20 ms: a turn of the ring gives three tokens, not one."""
    loop = asyncio.get_running_loop()
    engines = emulated(3, forward_s=0.02)
    async with running_ring(engines, 8, num_slots=3, num_groups=3) as ring:
        for sequence in range(3):
            ring.admit(sequence, [1], max_tokens=10)
        begin = loop.time()
        for sequence in range(3):
            await ring.tokens(sequence)
        took_s = loop.time() - begin
    one_after_another_s = 3 * 10 * 3 * 0.02
    assert took_s < 0.8 * one_after_another_s


async def test_a_long_prompt_does_not_wait_for_the_answers_before_it() -> None:
    """Slotted between groups: its first token comes while they are still being decoded."""
    engines = emulated(2, forward_s=0.002)
    async with running_ring(engines, 8, num_slots=3, num_groups=2) as ring:
        for sequence in (1, 2):
            ring.admit(sequence, [1], max_tokens=60)
            await ring.next(sequence)
        ring.admit(3, [1] * 12, max_tokens=1)
        await ring.tokens(3)
        for sequence in (1, 2):
            assert ring.outcomes[sequence].qsize() < 30


async def test_a_runner_counts_its_frames_and_the_time_they_took() -> None:
    async with running_ring(emulated(2, forward_s=0.005), 8) as ring:
        ring.admit(1, [1] * 6, max_tokens=4)
        await ring.tokens(1)
        counted = [(runner.num_frames, runner.busy_s) for runner in ring.runners]
    assert [frames for frames, _ in counted] == [2 + 3, 2 + 3], "two chunks, three tokens sent on"
    assert all(busy_s >= 5 * 0.005 for _, busy_s in counted)


async def test_an_emulated_slower_device_takes_that_much_longer() -> None:
    async with running_ring(emulated(1, forward_s=0.005), 8) as ring:
        ring.runners[0].slowdown = 3.0
        ring.admit(1, [1], max_tokens=4)
        await ring.tokens(1)
        assert ring.runners[0].busy_s >= 4 * 0.015


@pytest.mark.parametrize("num_stages", [1, 3])
async def test_shutdown_in_the_middle_leaves_no_task_behind(
    num_stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "INLINE_BYTES", 64)
    before = asyncio.all_tasks()
    async with running_ring(emulated(num_stages, forward_s=0.001), 8) as ring:
        for sequence in range(4):
            ring.admit(sequence, [1] * 9, max_tokens=40)
        await ring.next(0)
    assert asyncio.all_tasks() == before
