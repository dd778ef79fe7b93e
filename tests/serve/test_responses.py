"""Answers in OpenAI's shapes, which its own client's types check."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from edgepipe.core.frame import FinishReason
from edgepipe.serve.pieces import Ended, Piece, TokenText, Told
from edgepipe.serve.responses import (
    LEAST_LOGPROB,
    ChatShape,
    CompletionShape,
    Envelope,
    Whole,
    shown,
    sse,
    usage,
)

EURO = "€".encode()
TOLD = [
    Told(
        token=TokenText(data=EURO[:1], logprob=-0.5),
        likely=[TokenText(data=b"x", logprob=-math.inf)],
        offset=0,
    ),
    Told(token=TokenText(data=EURO[1:], logprob=-1.0), likely=[], offset=0),
]
PIECE = Piece(choice=0, text="€", tokens=TOLD)
ENDED = Ended(choice=0, finish=FinishReason.LENGTH, num_tokens=2)
ENVELOPE = Envelope(id="id-1", created_s=7, model="m")


def whole(piece: Piece) -> Whole:
    found = Whole(ended=ENDED)
    found.add(piece)
    return found


def around(kind: str, choice: Any, **more: Any) -> Any:
    return json.loads(sse(ENVELOPE.around(kind, [choice], **more)).removeprefix(b"data: "))


def test_a_chat_answer_is_what_openais_client_reads() -> None:
    shape = ChatShape(tells_tokens=True)
    document = around(shape.whole_object, shape.whole(0, whole(PIECE)), usage=usage(3, 2))
    read = ChatCompletion.model_validate(document, strict=True)
    assert read.choices[0].message.content == "€"
    assert read.choices[0].finish_reason == "length"
    assert read.usage is not None
    assert read.usage.total_tokens == 5
    assert read.choices[0].logprobs is not None
    one, two = read.choices[0].logprobs.content or []
    assert (one.token, one.bytes, one.logprob) == (r"bytes:\xe2", [0xE2], -0.5)
    assert bytes([*(one.bytes or []), *(two.bytes or [])]).decode() == "€"
    assert one.top_logprobs[0].logprob == LEAST_LOGPROB
    assert document["object"] == "chat.completion"


def test_a_chat_stream_says_the_role_first_and_the_reason_last() -> None:
    shape = ChatShape(tells_tokens=False)
    steps = [shape.opening(0), shape.piece(Piece(choice=0, text="a")), shape.closing(ENDED)]
    read = [
        ChatCompletionChunk.model_validate(around(shape.chunk_object, step), strict=True)
        for step in steps
    ]
    deltas = [chunk.choices[0].delta for chunk in read]
    assert [(delta.role, delta.content) for delta in deltas] == [
        ("assistant", ""),
        (None, "a"),
        (None, None),
    ]
    assert [chunk.choices[0].finish_reason for chunk in read] == [None, None, "length"]


def test_a_completion_counts_its_offsets_in_characters() -> None:
    shape = CompletionShape(tells_tokens=True)
    document = around(shape.whole_object, shape.whole(0, whole(PIECE)), usage=usage(3, 2))
    read = Completion.model_validate(document, strict=True)
    logprobs = read.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [r"bytes:\xe2", r"bytes:\x82\xac"]
    assert logprobs.token_logprobs == [-0.5, -1.0]
    assert logprobs.top_logprobs == [
        {"x": LEAST_LOGPROB, r"bytes:\xe2": -0.5},
        {r"bytes:\x82\xac": -1.0},
    ]
    assert logprobs.text_offset == [0, 0]


def test_an_answer_without_logprobs_has_none() -> None:
    plain = whole(Piece(choice=0, text="a"))
    assert ChatShape(tells_tokens=False).whole(0, plain)["logprobs"] is None
    assert CompletionShape(tells_tokens=False).whole(0, plain)["logprobs"] is None


@pytest.mark.parametrize("text", ["a", " wörd", "€", "data: x\n\ndata: y", "\u2028"])
def test_an_event_is_one_line_whatever_it_says(text: str) -> None:
    event = sse({"text": text})
    assert event.count(b"\n") == 2
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:]) == {"text": text}
    assert shown(text.encode()) == text
