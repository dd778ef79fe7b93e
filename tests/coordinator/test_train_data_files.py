"""Files of texts and conversations, and a sentence for each way in which they can be wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.coordinator.train_data.document import Chat, Document, Passage, Text
from edgepipe.coordinator.train_data.files import _paragraphs, read_documents
from edgepipe.core.dataset import DataFormat
from edgepipe.errors import UsageError

AUTO, TEXT, MESSAGES = DataFormat.AUTO, DataFormat.TEXT, DataFormat.MESSAGES
GOOD = b'{"text": "a"}\n'
ONE_CHAT = b'{"messages": [{"role": "user", "content": "Hi"}]}\n'

WRONG: dict[str, tuple[DataFormat, bytes]] = {
    "cut-off.jsonl": (AUTO, GOOD + b'{"text": "b\n'),
    "single-quotes.jsonl": (AUTO, GOOD + b"{'text': 'b'}\n"),
    "deep.jsonl": (AUTO, GOOD + b"[" * 100_000),
    "list.jsonl": (AUTO, GOOD + b'["b"]\n'),
    "array.json": (AUTO, b'[\n {"text": "b"}\n]\n'),
    "neither.jsonl": (AUTO, GOOD + b'{"prompt": "b"}\n'),
    "no-text.jsonl": (TEXT, ONE_CHAT),
    "no-messages.jsonl": (MESSAGES, ONE_CHAT + GOOD),
    "plain.txt": (MESSAGES, b"Once upon a time.\n"),
    "number.jsonl": (AUTO, GOOD + b'{"text": 3}\n'),
    "empty-text.jsonl": (AUTO, GOOD + b'\n{"text": " "}\n'),
    "surrogate.jsonl": (AUTO, b'{"text": "\\ud83d"}\n'),
    "no-turns.jsonl": (AUTO, b'{"messages": []}\n'),
    "not-a-message.jsonl": (AUTO, b'{"messages": ["Hi"]}\n'),
    "role.jsonl": (AUTO, b'{"messages": [{"role": "human", "content": "Hi"}]}\n'),
    "no-role.jsonl": (AUTO, b'{"messages": [{"content": "Hi"}]}\n'),
    "list-role.jsonl": (AUTO, b'{"messages": [{"role": ["user"], "content": "Hi"}]}\n'),
    "no-content.jsonl": (AUTO, b'{"messages": [{"role": "user"}]}\n'),
    "parts.jsonl": (AUTO, b'{"messages": [{"role": "user", "content": [{"type": "text"}]}]}\n'),
    "empty-turn.jsonl": (AUTO, ONE_CHAT + b'{"messages": [{"role": "user", "content": ""}]}\n'),
    "latin-1.jsonl": (AUTO, GOOD + '{"text": "é"}\n'.encode("latin-1")),
    "utf-16.txt": (AUTO, "Once".encode("utf-16")),
    "long.jsonl": (AUTO, GOOD + b'{"text": "' + b"a" * (16 << 20) + b'"}\n'),
    "empty.jsonl": (AUTO, b""),
    "blank.jsonl": (AUTO, b"\n\n"),
    "blank.txt": (AUTO, b" \n\n"),
    "blank.data": (AUTO, b"\n"),
}


def read(folder: Path, name: str, content: bytes, expected: DataFormat = AUTO) -> list[Document]:
    path = folder / name
    path.write_bytes(content)
    return list(read_documents([path], expected))


def refusal(paths: list[Path], expected: DataFormat) -> str:
    with pytest.raises(UsageError) as refused:
        read_documents(paths, expected)
    return str(refused.value)


def test_every_refusal_names_file_and_line_and_says_what_to_do(
    tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    sentences = [refusal([tmp_path / "absent.jsonl"], AUTO), refusal([tmp_path], AUTO)]
    for name, (expected, content) in WRONG.items():
        (tmp_path / name).write_bytes(content)
        sentences.append(refusal([tmp_path / name], expected))
    text = "\n".join(sentences).replace(f"{tmp_path}/", "").replace(str(tmp_path), "folder")
    golden("train_data_refusals", text + "\n")


def test_lines_are_texts_or_conversations(tmp_path: Path) -> None:
    both = b'{"text": "a", "id": 1}\n\n' + ONE_CHAT
    text, chat = read(tmp_path, "both.jsonl", both)
    assert isinstance(text, Text)
    assert isinstance(chat, Chat)
    assert (text.content, text.origin.line) == ("a", 1)
    assert (chat.messages, chat.origin.line) == (({"role": "user", "content": "Hi"},), 3)


def test_a_format_chooses_where_a_line_has_both(tmp_path: Path) -> None:
    line = b'{"text": "a", "messages": [{"role": "user", "content": "Hi"}]}'
    kinds = [type(read(tmp_path, "a.jsonl", line, each)[0]) for each in (AUTO, TEXT, MESSAGES)]
    assert kinds == [Chat, Text, Chat]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jsonl", GOOD, Text),
        ("a.NDJSON", GOOD, Text),
        ("a.json", GOOD, Text),
        ("a.data", GOOD, Text),
        ("a", GOOD, Text),
        ("a.txt", GOOD, Passage),
        ("a.md", GOOD, Passage),
        ("a.data", b"{braces}\n", Passage),
        ("a", b'"quoted"\n', Passage),
    ],
)
def test_a_file_is_known_by_its_name_or_first_line(
    tmp_path: Path, name: str, content: bytes, kind: type
) -> None:
    assert [type(each) for each in read(tmp_path, name, content)] == [kind]


def test_a_plain_text_is_kept_as_it_stands_and_known_by_paragraphs(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\nOne,\r\nstill one.\r\n\r\n \nTwo: \xc3\xa9\n\n  Three"
    (passage,) = read(tmp_path, "story.txt", content)
    assert isinstance(passage, Passage)
    assert passage.whole().content == "\nOne,\nstill one.\n\n \nTwo: é\n\n  Three"
    apart = [text.content for text in passage.apart()]
    assert apart == ["One,\nstill one.", "Two: é", "  Three"]


@given(lines=st.lists(st.sampled_from(["a\n", "  b \n", "\n", " \t\n"]), max_size=12))
def test_paragraphs_are_the_whole_text_and_none_is_blank(lines: list[str]) -> None:
    paragraphs = list(_paragraphs(lines))
    assert "".join(paragraphs) == ("".join(lines) if "".join(lines).strip() else "")
    assert all(paragraph.strip() for paragraph in paragraphs)
    blank = "".join("x" if line.strip() else " " for line in lines)
    assert len(paragraphs) == len(blank.split())


def test_several_files_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(GOOD)
    (tmp_path / "b.txt").write_text("b", encoding="utf-8")
    found = read_documents([tmp_path / "b.txt", tmp_path / "a.jsonl"], AUTO)
    assert [each.origin.path.name for each in found] == ["b.txt", "a.jsonl"]
