"""`edgepipe serve` over two agents, asked by OpenAI's own client and over plain HTTP."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import openai
import pytest
from cluster.conftest import Cluster, Edgepipe
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from serve.conftest import DEADLINE_S, Served, serving
from serve.small_model import CONTEXT

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "w5 w6"}]
SLOTS, QUEUE = 2, 3
EXACT = ("--stages", 2, "--codec", "none", "--dtype", "float32")
ROOM = ("--slots", SLOTS, "--queue", QUEUE)
LONG = {"model": "small", "messages": HELLO, "max_tokens": CONTEXT - 10, "temperature": 0}
KEY = "a key that nobody guesses"


@pytest.fixture(scope="module")
def served(edgepipe: Edgepipe, pair: Cluster, small: Path) -> Iterator[Served]:
    with serving(edgepipe, small, *EXACT, *ROOM, *pair.flags) as server:
        yield server
        server.process.terminate()
        assert server.process.wait(timeout=10) == 0


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client() as found:
        yield found


def wait_until(happens: Callable[[], Any], within_s: float = DEADLINE_S) -> None:
    """Asks again and again: what is asked over HTTP takes its time."""
    deadline = time.monotonic() + within_s
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"


def is_idle(served: Served) -> bool:
    return served.metric("edgepipe_running") == served.metric("edgepipe_waiting") == 0


def ask(served: Served, **fields: Any) -> Any:
    body = {"model": "small", "messages": HELLO, "max_tokens": 12, "temperature": 0, **fields}
    return served.http("/v1/chat/completions", body)


def begin(served: Served, stack: ExitStack, **fields: Any) -> tuple[HTTPConnection, HTTPResponse]:
    """A long stream, once the server has begun to answer."""
    connection = stack.enter_context(closing(served.connect()))
    body = json.dumps({**LONG, "stream": True, **fields})
    connection.request("POST", "/v1/chat/completions", body)
    response = connection.getresponse()
    stack.callback(response.close)
    assert response.status == 200
    return connection, response


# ------------------------------------------------------------------------------------- answers


def test_the_model_is_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "edgepipe"


def test_a_stream_says_what_a_whole_answer_says(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="small", messages=HELLO, max_tokens=12, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model="small",
            messages=HELLO,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(text.split()) == 12
    assert whole.choices[0].finish_reason == "length"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 12)
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_asynchronous_client_streams_too(served: Served) -> None:
    async with AsyncOpenAI(base_url=served.ready["url"], api_key="none", max_retries=0) as client:
        stream = await client.completions.create(
            model="small", prompt="w5 w6", max_tokens=8, temperature=0, stream=True
        )
        text = "".join([chunk.choices[0].text async for chunk in stream])
        whole = await asyncio.gather(
            *(
                client.completions.create(
                    model="small", prompt="w5 w6", max_tokens=8, temperature=0
                )
                for _ in range(SLOTS + QUEUE)
            )
        )
    assert {each.choices[0].text for each in whole} == {text}


def test_more_prompts_than_may_wait_are_not_even_read(served: Served) -> None:
    answered = served.http("/v1/completions", {"model": "small", "prompt": [""] * 6})
    assert answered.status == 400
    assert answered.error["message"].startswith("The request wants 6 answers, and 5 may run")


def test_a_stream_ends_with_done(served: Served) -> None:
    answered = ask(served, stream=True)
    assert answered.headers["content-type"].startswith("text/event-stream")
    events = answered.body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: {") for event in events[:-2])


def test_a_seed_gives_the_same_answer_and_each_choice_another(client: openai.OpenAI) -> None:
    def choices(seed: int, n: int) -> list[str | None]:
        found = client.chat.completions.create(
            model="small", messages=HELLO, max_tokens=12, temperature=1.5, seed=seed, n=n
        )
        assert [choice.index for choice in found.choices] == list(range(n))
        assert found.usage is not None
        assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (4, 12 * n)
        return [choice.message.content for choice in found.choices]

    one, two = choices(7, 2)
    assert one != two
    assert choices(7, 2) == [one, two]
    assert choices(8, 1) == [two]


def test_choices_of_a_stream_come_side_by_side(client: openai.OpenAI) -> None:
    found = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(
        model="small", messages=HELLO, max_tokens=6, seed=3, n=3, stream=True
    ):
        found[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    whole = client.chat.completions.create(model="small", messages=HELLO, max_tokens=6, seed=3, n=3)
    assert list(found.values()) == [choice.message.content for choice in whole.choices]


def test_every_prompt_is_answered(client: openai.OpenAI) -> None:
    def texts(prompt: Any) -> list[str]:
        found = client.completions.create(model="small", prompt=prompt, max_tokens=5, temperature=0)
        return [choice.text for choice in found.choices]

    one, two = texts("w5 w6"), texts("w7")
    assert texts(["w5 w6", "w7"]) == one + two == texts([[5, 6], [7]])
    assert texts([5, 6]) == one


def test_a_stop_string_ends_the_text_before_it(served: Served) -> None:
    text = ask(served).json["choices"][0]["message"]["content"]
    words = text.split()
    stop = f"{words[3]} {words[4]}"
    stopped = ask(served, stop=[stop, "nowhere"]).json
    assert stopped["choices"][0]["message"]["content"] == text[: text.index(stop)]
    assert stopped["choices"][0]["finish_reason"] == "stop"
    assert stopped["usage"]["completion_tokens"] == 5
    streamed = ask(served, stop=stop, stream=True).body.decode()
    assert words[3] not in streamed
    assert '"finish_reason":"stop"' in streamed


def test_log_probabilities_are_told(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="small", messages=HELLO, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    ).choices[0]
    assert found.logprobs is not None
    tokens = found.logprobs.content or []
    assert "".join(token.token for token in tokens) == found.message.content
    for token in tokens:
        assert [each.logprob for each in token.top_logprobs] == sorted(
            (each.logprob for each in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token
        assert token.top_logprobs[0].logprob == token.logprob < 0
        assert bytes(token.bytes or []).decode() == token.token


def test_streamed_log_probabilities_are_those_of_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.completions.create(
        model="small", prompt="w5", max_tokens=5, temperature=0, logprobs=2
    ).choices[0]
    streamed = [
        chunk.choices[0].logprobs
        for chunk in client.completions.create(
            model="small", prompt="w5", max_tokens=5, temperature=0, logprobs=2, stream=True
        )
    ]
    assert whole.logprobs is not None
    assert "".join(whole.logprobs.tokens or []) == whole.text
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        parts = [part for each in streamed if each for part in getattr(each, name)]
        assert parts == getattr(whole.logprobs, name)
    assert all(len(each) == 2 for each in whole.logprobs.top_logprobs or [])
    assert [whole.text[at:][:2] for at in whole.logprobs.text_offset or []][1:] == [" w"] * 4


def test_biases_and_penalties_change_the_answer(served: Served) -> None:
    first = ask(served).json["choices"][0]["message"]["content"].split()[0]
    banned = ask(served, logit_bias={first.removeprefix("w"): -100}).json
    assert first not in banned["choices"][0]["message"]["content"].split()
    wanted = ask(served, logit_bias={"7": 100}).json["choices"][0]["message"]["content"]
    assert wanted.split() == ["w7"] * 12
    varied = ask(served, logit_bias={"7": 4}, frequency_penalty=2, max_tokens=30).json
    plain = ask(served, logit_bias={"7": 4}, max_tokens=30).json
    counts = [
        each["choices"][0]["message"]["content"].split().count("w7") for each in (varied, plain)
    ]
    assert counts[0] < counts[1]


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", ["tools", "response_format", "mood"])
def test_the_client_reads_which_parameter_is_refused(client: openai.OpenAI, name: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(
            model="small", messages=HELLO, extra_body={name: [{"type": "json_object"}]}
        )
    assert refused.value.param == name
    assert name in str(refused.value)


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=HELLO)
    assert refused.value.code == "model_not_found"


def test_a_prompt_beyond_the_context_is_refused(served: Served) -> None:
    error = ask(served, messages=[{"role": "user", "content": "w1 " * CONTEXT}])
    assert error.status == 400
    assert error.error["code"] == "context_length_exceeded"


def test_a_template_may_refuse_messages(served: Served) -> None:
    refused = ask(served, messages=[{"role": "user", "content": "w90"}])
    assert refused.status == 400
    assert "w90 is not said here" in refused.error["message"]


def test_tokens_that_do_not_exist_are_refused(served: Served) -> None:
    assert ask(served, logit_bias={"96": 1}).error["param"] == "logit_bias"
    body = {"model": "small", "prompt": [95, 96]}
    assert served.http("/v1/completions", body).error["param"] == "prompt"


def test_more_answers_than_there_is_room_for_are_refused(served: Served) -> None:
    refused = ask(served, n=SLOTS + QUEUE + 1)
    assert refused.status == 400
    assert refused.error["param"] == "n"


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nowhere", "GET", 404),
        ("/v1/embeddings", "POST", 404),
        ("/v1/models/other", "GET", 404),
        ("/v1/chat/completions", "GET", 405),
        ("/health", "POST", 405),
    ],
)
def test_every_wrong_way_gets_the_error_object(
    served: Served, path: str, method: str, status: int
) -> None:
    answered = served.http(path, method=method)
    assert answered.status == status
    assert answered.error["message"]


def test_bodies_are_bounded_and_json(served: Served) -> None:
    path = "/v1/completions"
    assert served.http(path, b"{").error["code"] == "invalid_json"
    assert served.http(path, b"x" * (4 << 20) + b"x").status == 413
    page = served.http(path, b"{}", Origin="http://evil", Content_Type="text/plain")
    assert page.status == 415


# ----------------------------------------------------------------------------------- admission


def test_beyond_slots_and_queue_clients_are_told_when_to_come_again(served: Served) -> None:
    wait_until(lambda: is_idle(served))
    with ExitStack() as stack:
        for _ in range(SLOTS + QUEUE):
            begin(served, stack)
        assert served.metric("edgepipe_running") == SLOTS
        assert served.metric("edgepipe_waiting") == QUEUE
        refused = ask(served)
        assert refused.status == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.error["code"] == "rate_limit_exceeded"
        assert served.http("/health").status == 200
    wait_until(lambda: is_idle(served))


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_slots(served: Served, stream: bool) -> None:
    expected = ask(served).json["choices"]
    wait_until(lambda: is_idle(served))
    cancelled = served.metric("edgepipe_cancelled_sequences_total")
    with closing(served.connect()) as connection:
        body = json.dumps({**LONG, "n": SLOTS, "stream": stream})
        connection.request("POST", "/v1/chat/completions", body)
        wait_until(lambda: served.metric("edgepipe_running") == SLOTS)
    began = time.monotonic()
    wait_until(lambda: is_idle(served))
    assert served.metric("edgepipe_cancelled_sequences_total") == cancelled + SLOTS
    assert ask(served).json["choices"] == expected
    assert time.monotonic() - began < 5


def test_who_waits_takes_over_a_slot_that_is_freed(served: Served) -> None:
    expected = ask(served).json["choices"][0]["message"]["content"]
    wait_until(lambda: is_idle(served))
    with ExitStack() as stack:
        leaving, _ = zip(*(begin(served, stack) for _ in range(SLOTS)), strict=True)
        _, waiting = begin(served, stack, max_tokens=12)
        assert served.metric("edgepipe_waiting") == 1
        leaving[0].close()
        text = waiting.read().decode()
        deltas = [json.loads(event[6:]) for event in text.split("\n\n")[:-2]]
        found = "".join(each["choices"][0]["delta"].get("content", "") for each in deltas)
        assert found == expected
    wait_until(lambda: is_idle(served))


def test_a_slow_reader_holds_up_nobody_and_misses_nothing(served: Served) -> None:
    expected = ask(served, max_tokens=600).json["choices"][0]["message"]["content"]
    with ExitStack() as stack:
        _, slow = begin(served, stack, max_tokens=600)
        wait_until(lambda: is_idle(served))
        text = slow.read().decode()
    deltas = [json.loads(event[6:]) for event in text.split("\n\n")[:-2]]
    found = "".join(each["choices"][0]["delta"].get("content", "") for each in deltas)
    assert found == expected


def test_metrics_count_what_was_done(served: Served) -> None:
    before = served.metric("edgepipe_generated_tokens_total")
    asked = served.metric("edgepipe_prompt_tokens_total")
    ask(served)
    assert served.metric("edgepipe_generated_tokens_total") == before + 12
    assert served.metric("edgepipe_prompt_tokens_total") == asked + 4
    assert served.metric("edgepipe_slots") == SLOTS


def test_a_port_that_is_taken_is_told_at_once(
    edgepipe: Edgepipe, served: Served, small: Path
) -> None:
    done = edgepipe("serve", small, "--port", served.port)
    assert done.code == 1
    assert done.sentence == (
        f"edgepipe: port {served.port} is in use: stop what listens there, or choose another"
    )
