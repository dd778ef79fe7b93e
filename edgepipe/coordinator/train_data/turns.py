r"""What the assistant said in a conversation, and so what is learned from it.

Where the chat template marks it (`{% generation %}`) that counts. Else an answer is what a longer
conversation has more, and the one before it, asking for an answer, has not:

    messages[:i], answer next   <user>Hi</s><assistant>
    messages[:i+1]              <user>Hi</s><assistant>Hello</s>
                                                       └─ learned ─┘  its end token too

A token on the border of an answer that holds some of it is learned. An answer that nothing precedes
begins with its own words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgepipe.coordinator.text import Span, TemplateRefused, Tokenizer
from edgepipe.coordinator.train_data.document import Chat, Role
from edgepipe.core.dataset import Example, example
from edgepipe.errors import ModelError, UsageError


def chat_examples(chats: Sequence[Chat], tokenizer: Tokenizer) -> list[Example]:
    """Each conversation's tokens, the assistant's turns as targets.

    Raises:
        UsageError: the chat template refuses a conversation, or shows an answer otherwise in a
            longer conversation than in a shorter one.
        ModelError: the model has no chat template, or its tokenizer does not tell which characters
            a token stands for.
    """
    if not tokenizer.has_template:
        raise ModelError(
            "The model has no chat template for messages: train an instruct model, or give text."
        )
    if tokenizer.marks_answers:
        return [_marked(chat, tokenizer) for chat in chats]
    texts = [_rendered(chat, len(chat.messages), tokenizer) for chat in chats]
    encoded = tokenizer.conversation_ids(texts)
    return [
        example(ids, _mask(offsets, list(_answers(chat, text, tokenizer))))
        for chat, text, (ids, offsets) in zip(chats, texts, encoded, strict=True)
    ]


def _marked(chat: Chat, tokenizer: Tokenizer) -> Example:
    try:
        return example(*tokenizer.answer_mask(chat.messages))
    except TemplateRefused as error:
        raise _refused(chat, error) from error


def _answers(chat: Chat, whole: str, tokenizer: Tokenizer) -> Iterator[Span]:
    """The characters of `whole` that are the assistant's turns."""
    for index, message in enumerate(chat.messages):
        if message["role"] == Role.ASSISTANT:
            content = message["content"].strip()
            turn = _rendered(chat, index + 1, tokenizer)
            head = turn.partition(content)[0]
            if index:
                head = _rendered(chat, index, tokenizer, answer_next=True)
            end = _end(whole, len(head), turn, content)
            if not whole.startswith(head) or end <= len(head):
                raise chat.origin.wrong(
                    f"the model's chat template shows message {index + 1} otherwise when others "
                    "follow it: give every answer a conversation of its own."
                )
            yield len(head), end


def _end(whole: str, start: int, turn: str, content: str) -> int:
    """Where an answer ends in `whole`; 0 where it cannot be found.

    Some templates (Qwen 3) show the last answer with an empty thought and earlier ones without:
    then the answer's own words, with what closes a turn, are looked for.
    """
    if whole.startswith(turn):
        return len(turn)
    _, _, closing = turn.rpartition(content)
    return start + len(content + closing) if whole.startswith(content + closing, start) else 0


def _rendered(
    chat: Chat, num_messages: int, tokenizer: Tokenizer, *, answer_next: bool = False
) -> str:
    try:
        return tokenizer.conversation(chat.messages[:num_messages], answer_next=answer_next)
    except TemplateRefused as error:
        raise _refused(chat, error) from error


def _refused(chat: Chat, error: TemplateRefused) -> UsageError:
    reason = str(error).rstrip(".")
    return chat.origin.wrong(
        f"the model's chat template refuses this conversation ({reason}): change or remove it."
    )


def _mask(offsets: Sequence[Span], answers: Sequence[Span]) -> list[bool]:
    return [any(start < end and begin < stop for begin, end in answers) for start, stop in offsets]
