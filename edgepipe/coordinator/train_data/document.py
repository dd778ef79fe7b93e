"""What training files hold: texts, conversations, and running texts of many paragraphs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from edgepipe.coordinator.text import Message
from edgepipe.errors import UsageError


class Role(StrEnum):
    """Who speaks in a conversation."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where something was read: a file, and the line in it, from 1 on."""

    path: Path
    line: int

    def wrong(self, what: str) -> UsageError:
        """The refusal: the file, the line, what is wrong there and what to do."""
        return UsageError(f"{self.path}: line {self.line}: {what}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that ends where it ends: a line's `text`."""

    origin: Origin
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation: a line's `messages`, of which the assistant's turns are learned."""

    origin: Origin
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """Consecutive paragraphs of a plain-text file, each with the blank lines after it.

    Packed, it is one text; otherwise each paragraph is a text of its own.
    """

    origin: Origin
    paragraphs: tuple[str, ...]

    def whole(self) -> Text:
        """All of it, as it stands in the file."""
        return Text(origin=self.origin, content="".join(self.paragraphs))

    def apart(self) -> tuple[Text, ...]:
        """Its paragraphs, without the blank lines around them."""
        return tuple(
            Text(origin=self.origin, content=paragraph.strip("\n").rstrip())
            for paragraph in self.paragraphs
        )


Document: TypeAlias = Text | Chat | Passage
