"""Documents become tokens, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgepipe.coordinator.text import Tokenizer
from edgepipe.coordinator.train_data.document import Chat, Document, Passage, Text
from edgepipe.coordinator.train_data.turns import chat_examples
from edgepipe.core.dataset import Example, example

_BATCH_DOCUMENTS = 256

OnProgress = Callable[[int, int], None]
"""Told how many documents are tokenised, of how many."""


def tokenise(
    documents: Sequence[Document], tokenizer: Tokenizer, *, packing: bool, on_progress: OnProgress
) -> tuple[Example, ...]:
    """One example per document, uncut, in order; a plain text is one only where rows are packed.

    Raises:
        UsageError: a conversation that the model's chat template refuses.
        ModelError: conversations, and the model has no chat template.
    """
    pieces = [piece for document in documents for piece in _pieces(document, packing=packing)]
    found: list[Example] = []
    for start in range(0, len(pieces), _BATCH_DOCUMENTS):
        found += _batch(pieces[start : start + _BATCH_DOCUMENTS], tokenizer)
        on_progress(len(found), len(pieces))
    return tuple(found)


def _pieces(document: Document, *, packing: bool) -> tuple[Text | Chat, ...]:
    match document:
        case Passage():
            return (document.whole(),) if packing else document.apart()
        case _:
            return (document,)


def _batch(pieces: Sequence[Text | Chat], tokenizer: Tokenizer) -> Iterator[Example]:
    texts = [piece.content for piece in pieces if isinstance(piece, Text)]
    chats = [piece for piece in pieces if isinstance(piece, Chat)]
    of_texts = map(example, tokenizer.text_ids(texts) if texts else ())
    of_chats = iter(chat_examples(chats, tokenizer) if chats else ())
    for piece in pieces:
        yield next(of_texts if isinstance(piece, Text) else of_chats)
