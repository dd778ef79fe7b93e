"""What clients get: whole answers, and the chunks of streams, in OpenAI's shapes."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from edgepipe.core.frame import FinishReason
from edgepipe.serve.pieces import Ended, Piece, TokenText, Told

DONE = b"data: [DONE]\n\n"
LEAST_LOGPROB = -9999.0
"""JSON has no infinity: this is what OpenAI gives for a token that cannot come."""

Json = dict[str, Any]


def sse(document: Json) -> bytes:
    """One server-sent event."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode() + b"\n\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all chunks of an answer share."""

    id: str
    created_s: int
    model: str

    def around(self, kind: str, choices: Sequence[Json], **more: Any) -> Json:
        """A whole answer, or a chunk of it."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created_s,
            "model": self.model,
            "choices": list(choices),
            **more,
        }


@dataclass(slots=True, kw_only=True)
class Whole:
    """One choice, put together from its pieces."""

    texts: list[str] = field(default_factory=list)
    tokens: list[Told] = field(default_factory=list)
    ended: Ended | None = None

    def add(self, piece: Piece) -> None:
        """Append the next piece."""
        self.texts.append(piece.text)
        self.tokens += piece.tokens

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self.texts)


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """How many tokens went in and came out; a prompt of several choices counts once."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


class Shape(ABC):
    """How one endpoint writes its choices. `tells_tokens` where log-probabilities are wanted."""

    whole_object: ClassVar[str]
    chunk_object: ClassVar[str]
    id_prefix: ClassVar[str]

    def __init__(self, *, tells_tokens: bool) -> None:
        self.tells_tokens = tells_tokens

    def opening(self, choice: int) -> Json | None:
        """What comes before a choice's first piece, if anything."""
        del choice
        return None

    @abstractmethod
    def piece(self, piece: Piece) -> Json:
        """A choice's next piece."""

    @abstractmethod
    def closing(self, ended: Ended) -> Json:
        """A choice's end."""

    @abstractmethod
    def whole(self, choice: int, whole: Whole) -> Json:
        """A choice at once."""


class ChatShape(Shape):
    """/v1/chat/completions."""

    whole_object = "chat.completion"
    chunk_object = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def opening(self, choice: int) -> Json:
        """See Shape."""
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def piece(self, piece: Piece) -> Json:
        """See Shape."""
        return self._chunk(piece.choice, {"content": piece.text}, tokens=piece.tokens)

    def closing(self, ended: Ended) -> Json:
        """See Shape."""
        return self._chunk(ended.choice, {}, ended.finish)

    def _chunk(
        self,
        choice: int,
        delta: Json,
        finish: FinishReason | None = None,
        tokens: Sequence[Told] = (),
    ) -> Json:
        logprobs = self._logprobs(tokens) if tokens else None
        return {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}

    def whole(self, choice: int, whole: Whole) -> Json:
        """See Shape."""
        assert whole.ended is not None
        return {
            "index": choice,
            "message": {"role": "assistant", "content": whole.text, "refusal": None},
            "logprobs": self._logprobs(whole.tokens) if self.tells_tokens else None,
            "finish_reason": whole.ended.finish,
        }

    @classmethod
    def _logprobs(cls, tokens: Sequence[Told]) -> Json:
        content = [
            {**cls._token(told.token), "top_logprobs": [cls._token(each) for each in told.likely]}
            for told in tokens
        ]
        return {"content": content, "refusal": None}

    @staticmethod
    def _token(token: TokenText) -> Json:
        return {
            "token": shown(token.data),
            "logprob": max(token.logprob, LEAST_LOGPROB),
            "bytes": list(token.data),
        }


class CompletionShape(Shape):
    """/v1/completions."""

    whole_object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"

    def piece(self, piece: Piece) -> Json:
        """See Shape."""
        return self._choice(piece.choice, piece.text, piece.tokens, None)

    def closing(self, ended: Ended) -> Json:
        """See Shape."""
        return self._choice(ended.choice, "", (), ended.finish)

    def whole(self, choice: int, whole: Whole) -> Json:
        """See Shape."""
        assert whole.ended is not None
        return self._choice(choice, whole.text, whole.tokens, whole.ended.finish)

    def _choice(
        self, choice: int, text: str, tokens: Sequence[Told], finish: FinishReason | None
    ) -> Json:
        logprobs = self._logprobs(tokens) if self.tells_tokens else None
        return {"index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish}

    @staticmethod
    def _logprobs(tokens: Sequence[Told]) -> Json:
        return {
            "tokens": [shown(told.token.data) for told in tokens],
            "token_logprobs": [max(told.token.logprob, LEAST_LOGPROB) for told in tokens],
            "top_logprobs": [
                {
                    shown(each.data): max(each.logprob, LEAST_LOGPROB)
                    for each in (*told.likely, told.token)
                }
                for told in tokens
            ],
            "text_offset": [told.offset for told in tokens],
        }


def shown(data: bytes) -> str:
    r"""A token as text; a part of a character as OpenAI writes it: `bytes:\xe2\x82`."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
