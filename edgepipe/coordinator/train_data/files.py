"""Training files become documents.

    .jsonl .ndjson .json        JSONL, a document per line; blank lines are skipped
    .txt .md .rst .text         plain text: the file is one running text, in paragraphs
    any other name              JSONL where the first line is a JSON object, else plain text

The format `messages` takes every file for JSONL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from edgepipe.coordinator.train_data.document import Document, Origin, Passage
from edgepipe.coordinator.train_data.jsonl import is_object, parse_line
from edgepipe.coordinator.train_data.lines import read_lines
from edgepipe.core.dataset import DataFormat
from edgepipe.errors import UsageError

_JSONL = frozenset({".jsonl", ".ndjson", ".json"})
_PLAIN = frozenset({".txt", ".md", ".rst", ".text"})


def read_documents(paths: Iterable[Path], expected: DataFormat) -> tuple[Document, ...]:
    """The documents of some files, in order; all of them are held in memory.

    Raises:
        UsageError: a file is missing, empty or not what is expected: which, and in which line.
    """
    return tuple(document for path in paths for document in _read_file(path, expected))


def _read_file(path: Path, expected: DataFormat) -> Iterator[Document]:
    lines = read_lines(path)
    first = next(lines, None)
    documents: Iterator[Document] = iter(())
    if first is not None:
        every = chain([first], lines)
        is_jsonl = _is_jsonl(path, first[1], expected)
        documents = _json_lines(every, expected) if is_jsonl else _running_text(path, every)
    document = next(documents, None)
    if document is None:
        raise UsageError(f"{path} is empty: fill it, or take it out of the paths under [data].")
    yield document
    yield from documents


def _is_jsonl(path: Path, first_line: str, expected: DataFormat) -> bool:
    suffix = path.suffix.lower()
    if expected is DataFormat.MESSAGES or suffix in _JSONL:
        return True
    return suffix not in _PLAIN and is_object(first_line)


def _json_lines(lines: Iterable[tuple[Origin, str]], expected: DataFormat) -> Iterator[Document]:
    return (parse_line(origin, line, expected) for origin, line in lines if line.strip())


def _running_text(path: Path, lines: Iterable[tuple[Origin, str]]) -> Iterator[Document]:
    paragraphs = tuple(_paragraphs(line for _, line in lines))
    if paragraphs:
        yield Passage(origin=Origin(path=path, line=1), paragraphs=paragraphs)


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    """Each with the blank lines after it; the first one with those before it too."""
    paragraph: list[str] = []
    begun = ended = False
    for line in lines:
        blank = not line.strip()
        if ended and not blank:
            yield "".join(paragraph)
            paragraph, ended = [], False
        begun = begun or not blank
        ended = begun and blank
        paragraph.append(line)
    if begun:
        yield "".join(paragraph)
