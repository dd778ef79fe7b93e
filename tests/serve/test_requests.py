"""Bodies: what each parameter may be, and by what name it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgepipe.serve.errors import Refusal
from edgepipe.serve.requests import ChatBody, CompletionBody, parse

HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> ChatBody:
    return parse(ChatBody, json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def completion(**fields: Any) -> CompletionBody:
    return parse(CompletionBody, json.dumps({"model": "m", "prompt": "hello", **fields}).encode())


def test_only_a_model_and_messages_are_needed() -> None:
    body = chat()
    assert not body.streams
    assert body.num_choices == 1
    assert body.token_limit is None
    assert body.num_likely is None
    assert completion().token_limit == 16


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 0, "top_k": 0, "seed": -1, "n": 128},
        {"presence_penalty": -2, "frequency_penalty": 2.0, "logit_bias": {"7": -100}},
        {"stop": None, "tools": None, "response_format": None, "user": None, "n": None},
        {"stop": "."},
        {"stop": ["a", "b", "c", "d"]},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"logprobs": True, "top_logprobs": 20},
        {"logprobs": False},
        {"max_completion_tokens": 1},
        {"user": "u", "safety_identifier": "s", "metadata": {"a": "b"}, "prompt_cache_key": "k"},
        {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": False},
        {"messages": [{"role": "developer", "content": "Be kind."}, *HELLO]},
        {"messages": [*HELLO, {"role": "assistant", "content": "hi", "tool_calls": None}]},
        {"messages": [{"role": "user", "content": "hi", "refusal": None, "annotations": []}]},
    ],
)
def test_what_openai_takes_is_taken(fields: dict[str, Any]) -> None:
    chat(**fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", {"type": "function"}),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("response_format", {"type": "json_schema", "json_schema": {}}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("prediction", {"type": "content"}),
        ("reasoning_effort", "low"),
        ("web_search_options", {}),
        ("store", True),
        ("service_tier", "flex"),
    ],
)
def test_what_is_not_supported_is_named(name: str, value: Any) -> None:
    with pytest.raises(Refusal) as refused:
        chat(**{name: value})
    assert refused.value.status == 400
    assert refused.value.body()["error"] == {
        "message": f"'{name}' is not supported by this server: leave it out.",
        "type": "invalid_request_error",
        "param": name,
        "code": "unsupported_parameter",
    }


@pytest.mark.parametrize(("name", "value"), [("echo", True), ("best_of", 2), ("suffix", "end")])
def test_what_completions_do_not_support_is_named(name: str, value: Any) -> None:
    completion(**{name: None})
    with pytest.raises(Refusal, match=f"'{name}' is not supported"):
        completion(**{name: value})


def test_a_parameter_that_nobody_knows_is_named() -> None:
    with pytest.raises(Refusal, match="'min_tokens' is not a parameter that this server knows"):
        chat(min_tokens=3)
    with pytest.raises(Refusal, match=r"'messages.1.mood' is not a parameter"):
        chat(messages=[*HELLO, {"role": "user", "content": "x", "mood": "good"}])
    with pytest.raises(Refusal, match=r"'messages.0.name' is not supported"):
        chat(messages=[{"role": "user", "content": "x", "name": "Ada"}])


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("temperature", {"temperature": 2.1}),
        ("temperature", {"temperature": -0.1}),
        ("temperature", {"temperature": "1"}),
        ("temperature", {"temperature": True}),
        ("top_p", {"top_p": 1.1}),
        ("top_k", {"top_k": -1}),
        ("top_k", {"top_k": 1 << 31}),
        ("seed", {"seed": 1 << 63}),
        ("seed", {"seed": 1.5}),
        ("n", {"n": 0}),
        ("n", {"n": 129}),
        ("max_tokens", {"max_tokens": 0}),
        ("max_tokens", {"max_tokens": 1, "max_completion_tokens": 1}),
        ("max_completion_tokens", {"max_completion_tokens": -1}),
        ("presence_penalty", {"presence_penalty": 2.5}),
        ("frequency_penalty", {"frequency_penalty": -2.5}),
        ("logit_bias", {"logit_bias": {"1": 101}}),
        ("logit_bias", {"logit_bias": {str(token): 1 for token in range(1025)}}),
        ("stop", {"stop": ["a"] * 5}),
        ("stop", {"stop": ""}),
        ("stop", {"stop": ["a" * 513]}),
        ("stop", {"stop": 3}),
        ("stream", {"stream": "yes"}),
        ("stream_options", {"stream_options": {"include_usage": True}}),
        ("stream_options.mood", {"stream": True, "stream_options": {"mood": 1}}),
        ("top_logprobs", {"top_logprobs": 2}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("logprobs", {"logprobs": 3}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hello"}),
        ("messages.0", {"messages": ["hello"]}),
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content", {"messages": [{"role": "user", "content": None}]}),
        (
            "messages.0.content",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        ),
        ("model", {"model": None}),
    ],
)
def test_what_is_wrong_is_named(param: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Refusal, match=f"'{param}") as refused:
        chat(**fields)
    error = refused.value.body()["error"]
    assert refused.value.status == 400
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert str(refused.value).endswith(".")


def test_parts_of_text_are_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].content == "one\ntwo"


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompts_are_texts_or_tokens_one_or_many(prompt: Any, found: list[Any]) -> None:
    assert completion(prompt=prompt).prompt == found


@pytest.mark.parametrize(
    "prompt", [[], [[]], [""] * 0, ["a", 1], [1, "a"], [[1], "a"], [-1], [True], [1.5], 7, None]
)
def test_a_prompt_that_is_neither_is_refused(prompt: Any) -> None:
    with pytest.raises(Refusal, match="'prompt' is wrong: give a text, token ids, or a list"):
        completion(prompt=prompt)


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b'"text"', b'{"a": NaN}', b"[" * 100_000, b"\xff", b'{"a":"\\ud800"}']
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        parse(ChatBody, raw)
    assert refused.value.body()["error"]["code"] == "invalid_json"
