"""Prompts become token ids, and token ids become text as they come."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from edgepipe.core.byte_level import byte_level_bytes
from edgepipe.core.text import StopScanner
from edgepipe.errors import ModelError, PromptTooLong, UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = Mapping[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""

Span: TypeAlias = tuple[int, int]
"""From the first character up to the one behind the last."""

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateRefused(ModelError):
    """A chat template refuses some messages; the message is the template's own."""


def load_tokenizer(folder: Path, *, exact: bool = False) -> Tokenizer:
    """The tokenizer of a model's folder.

    Args:
        folder: holds the tokenizer's files and config.json.
        exact: its tokenizer.json is all that counts. Else transformers chooses the class that
            reads it, which imports torch.

    Raises:
        ModelError: there is no tokenizer, or it needs code or libraries that are not here.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 (0.8 s)

    try:
        if exact:
            return Tokenizer(PreTrainedTokenizerFast.from_pretrained(folder))
        from transformers import AutoTokenizer  # noqa: PLC0415 (2.5 s)

        return Tokenizer(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except Exception as error:  # tokenizers raises the bare class itself
        reason = str(error).partition("\n")[0][:200]
        raise ModelError(
            f"{folder} holds no tokenizer that can be loaded ({reason}): "
            "add the model's tokenizer.json."
        ) from error


def check_length(prompt_tokens: int, max_tokens: int | None, max_positions: int) -> int:
    """How many tokens may be generated: `max_tokens`, or the room that is left if that is less.

    Raises:
        PromptTooLong: the prompt leaves no room in the context.
        UsageError: there is nothing to start from, or nothing is wanted.
    """
    if prompt_tokens < 1:
        raise UsageError("The prompt is empty: give at least one token of text.")
    if max_tokens is not None and max_tokens < 1:
        raise UsageError(f"--max-tokens is {max_tokens}: ask for at least one token.")
    room = max_positions - prompt_tokens
    if room < 1:
        raise PromptTooLong(
            f"The prompt is {prompt_tokens} tokens long and the context {max_positions}, which "
            "leaves no room for an answer: shorten the prompt."
        )
    return room if max_tokens is None else min(max_tokens, room)


class Tokenizer:
    """A model's tokenizer and chat template."""

    def __init__(self, inner: PreTrainedTokenizerBase) -> None:
        self._inner = inner

    @property
    def has_template(self) -> bool:
        """Whether the model comes with a chat template."""
        return bool(self._inner.chat_template)

    def prompt_ids(self, prompt: str, *, raw: bool = False) -> list[int]:
        """A prompt's ids: as a user's message in the chat template, unless `raw` or without one.

        Special tokens are added once: by the template, or by the tokenizer.
        """
        if self.has_template and not raw:
            return self.chat_ids([{"role": "user", "content": prompt}])
        ids: list[int] = self._inner(prompt, add_special_tokens=True)["input_ids"]
        twice = len(ids) > 1 and ids[0] == ids[1] == self._inner.bos_token_id
        return ids[1:] if twice else ids

    def chat_ids(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, up to where the assistant's answer begins.

        Raises:
            ModelError: the model has no chat template, or it refuses these messages.
        """
        if not self.has_template:
            raise ModelError("The model has no chat template: use `edgepipe run --raw` instead.")
        try:
            ids: list[int] = self._templated(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateRefused as error:
            raise ModelError(
                f"The model's chat template refuses these messages ({error}): change them, "
                "or use --raw."
            ) from error
        return ids

    @property
    def marks_answers(self) -> bool:
        """Whether the chat template itself says what the assistant said: `{% generation %}`."""
        return bool(_GENERATION.search(self._inner.get_chat_template()))

    def answer_mask(self, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which the template marks as the assistant's.

        Raises:
            TemplateRefused: the template refuses these messages.
        """
        found = self._templated(
            messages,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"verbose": False},
        )
        return found["input_ids"], [bool(mark) for mark in found["assistant_masks"]]

    def conversation(self, messages: Sequence[Message], *, answer_next: bool = False) -> str:
        """A conversation as text, with the head of the assistant's next turn if `answer_next`.

        Raises:
            TemplateRefused: the template refuses these messages.
        """
        text: str = self._templated(messages, add_generation_prompt=answer_next, tokenize=False)
        return text

    def conversation_ids(self, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
        """The ids of what `conversation` gave, and the characters that each stands for.

        Raises:
            ModelError: the tokenizer cannot tell characters.
        """
        if not self._inner.is_fast:
            raise ModelError(
                "The model's tokenizer does not tell which characters a token stands for: "
                "add its tokenizer.json."
            )
        found = self._inner(
            list(texts),
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        return list(zip(found["input_ids"], found["offset_mapping"], strict=True))

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of whole texts: special tokens as the tokenizer adds them, EOS at the end."""
        found: list[list[int]] = self._inner(
            list(texts), add_special_tokens=True, return_attention_mask=False, verbose=False
        )["input_ids"]
        return [self._ended(ids) for ids in found]

    def _ended(self, ids: list[int]) -> list[int]:
        eos = self._inner.eos_token_id
        return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]

    def _templated(self, messages: Sequence[Message], **options: Any) -> Any:
        from jinja2.exceptions import TemplateError  # noqa: PLC0415 (comes with transformers)

        try:
            return self._inner.apply_chat_template(
                [dict(message) for message in messages], **options
            )
        except TemplateError as error:
            raise TemplateRefused(str(error)) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, without special tokens."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def token_bytes(self, token: int, *, first: bool) -> bytes:
        """What one token adds to a text, be it a part of a character; a special one its name.

        `first` says that the text begins with it, where some tokenizers drop a space.
        """
        name = self._inner.convert_ids_to_tokens(token)
        if not isinstance(name, str):  # the vocabulary is padded: this token has no meaning
            return b""
        if token in self._inner.all_special_ids:
            return name.encode()
        once = self.decode([token])
        text = once if first else self.decode([token, token])[len(once) :]
        if _UNFINISHED not in text:
            return text.encode()
        if byte := _BYTE.fullmatch(name):
            return bytes([int(byte[1], 16)])
        return byte_level_bytes(name) or text.encode()

    def stream(self, *, stops: Iterable[str] = (), eos_ids: Collection[int] = ()) -> TextStream:
        """The text of one sequence that is about to be generated."""
        return TextStream(self, stops=stops, eos_ids=eos_ids)


class TextStream:
    """One sequence's tokens become text; it ends at a stop string or an EOS token.

    `token_ids` are the tokens that count: up to the one that completed the stop string, or the
    EOS. Tokens that were on their way by then are dropped.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, stops: Iterable[str], eos_ids: Collection[int]
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = _Decoder(tokenizer)
        self._scanner = StopScanner(stops)
        self._eos_ids = frozenset(eos_ids)
        self._shown: list[str] = []
        self.token_ids: list[int] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """The text so far: what was shown or, once finished, what the tokenizer makes of all.

        The two differ only where the tokens are not valid UTF-8 and the decoder is not local.
        """
        if not self.stopped or self._scanner.found is not None:
            return "".join(self._shown)
        return self._tokenizer.decode([id_ for id_ in self.token_ids if id_ not in self._eos_ids])

    def feed(self, token: int) -> str:
        """Take the next token and return the text that is certain now. Empty once stopped."""
        if self.stopped:
            return ""
        self.token_ids.append(token)
        if token in self._eos_ids:
            return self.finish()
        piece = self._scanner.feed(self._decoder.feed(token))
        self.stopped = self._scanner.found is not None
        return self._show(piece)

    def finish(self) -> str:
        """The text that was held back, once no more tokens will come."""
        if self.stopped:
            return ""
        self.stopped = True
        piece = self._scanner.feed(self._decoder.finish())
        return self._show(piece + self._scanner.finish())

    def _show(self, piece: str) -> str:
        self._shown.append(piece)
        return piece


class _Decoder:
    """Decodes token by token; a character that is split over tokens comes whole.

    A token's text depends on the one before it (a space at the very beginning is dropped by some
    decoders), so each is decoded together with the tokens that gave the last text:

        _ids   | tokens whose text was given out | tokens of a character that is not complete |
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._num_given = 0
        self._given = ""  # the text of the first `_num_given` ids

    def feed(self, token: int) -> str:
        self._ids.append(token)
        text = self._tokenizer.decode(self._ids)
        return "" if text.endswith(_UNFINISHED) else self._give(text)

    def finish(self) -> str:
        return self._give(self._tokenizer.decode(self._ids))

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            self._ids = self._ids[self._num_given :]
            self._num_given = len(self._ids)
            self._given = self._tokenizer.decode(self._ids)
        return piece
