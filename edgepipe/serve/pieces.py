"""What becomes certain of the answers to a request, choice by choice.

Piece* ─▶ Ended        of every choice
Broken                 of the whole request: nothing comes after it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgepipe.coordinator.generation import Answer
from edgepipe.coordinator.text import Tokenizer
from edgepipe.core.frame import FinishReason, Likely
from edgepipe.serve.errors import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenText:
    """What a token stands for, which may be a part of a character, and its log-probability."""

    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A token of an answer. `offset` is where its text begins, in characters of the answer."""

    token: TokenText
    likely: Sequence[TokenText]
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next text of a choice, and the tokens that it was made of, where they are wanted."""

    choice: int
    text: str
    tokens: Sequence[Told] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A choice is whole: why, and how many tokens it has."""

    choice: int
    finish: FinishReason
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The request cannot be answered to its end."""

    refusal: Refusal


News = Piece | Ended | Broken


@dataclass(slots=True, kw_only=True)
class PieceMaker:
    """The pieces of one choice. A token comes with the text that it completes.

    Tokens of which no text is shown, as of a stop string or EOS, are not told.
    """

    choice: int
    tokenizer: Tokenizer
    answer: Answer
    tells_tokens: bool
    _num_told: int = 0
    _num_characters: int = 0

    def piece(self, text: str) -> Piece:
        """What the answer's newest tokens came to."""
        tokens = self._told() if self.tells_tokens else ()
        self._num_characters += len(text)
        return Piece(choice=self.choice, text=text, tokens=tokens)

    def _told(self) -> list[Told]:
        told, offset = [], self._num_characters
        for index in range(self._num_told, len(self.answer.sampled)):
            sampled = self.answer.sampled[index]
            if sampled.token in self.answer.asked.eos_ids:
                continue
            assert sampled.logprob is not None, "it was asked for"
            token = self._text(Likely(sampled.token, sampled.logprob), index)
            likely = [self._text(each, index) for each in sampled.likely]
            told.append(Told(token=token, likely=likely, offset=offset))
            offset += len(token.data.decode(errors="ignore"))
        self._num_told = len(self.answer.sampled)
        return told

    def _text(self, likely: Likely, index: int) -> TokenText:
        data = self.tokenizer.token_bytes(likely.token, first=index == 0)
        return TokenText(data=data, logprob=likely.logprob)
