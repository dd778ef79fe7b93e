from __future__ import annotations

import json
import math
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepipe.coordinator.json_lines import JsonLines
from edgepipe.errors import RunFolderError


@pytest.fixture
def lines(tmp_path: Path) -> JsonLines:
    return JsonLines(path=tmp_path / "metrics.jsonl")


@contextmanager
def files_at_most(num_bytes: int) -> Iterator[None]:
    """As on a disk that is nearly full: a write takes a part, the next one fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_are_read_as_they_were_written(lines: JsonLines) -> None:
    written = ({"step": 1, "loss": 2.5}, {"step": 2, "name": "ü\n", "list": [1, None, True]})
    for line in written:
        lines.append(line)
    assert lines.read() == written
    assert lines.path.read_bytes().count(b"\n") == 2


def test_what_json_has_no_number_for_is_null(lines: JsonLines) -> None:
    lines.append({"step": 1, "loss": math.nan, "more": {"x": (math.inf, 1.0)}})
    assert lines.read() == ({"step": 1, "loss": None, "more": {"x": [None, 1.0]}},)


@given(st.lists(st.integers(0, 9), max_size=12).map(sorted), st.integers(-1, 10))
def test_cut_back_forgets_what_came_after_a_step(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], step: int
) -> None:
    lines = JsonLines(path=tmp_path_factory.mktemp("run") / "metrics.jsonl")
    lines.path.touch()
    for each in steps:
        lines.append({"step": each})
    lines.cut_back(step)
    assert [line["step"] for line in lines.read()] == [each for each in steps if each <= step]


@pytest.mark.parametrize(
    "tail", [b'{"step": 3, "lo', b'{"step": 3}', b"\0\0\0\n", b"[3]\n", b"\xff\n"]
)
def test_a_line_that_was_cut_off_is_not_built_upon(lines: JsonLines, tail: bytes) -> None:
    lines.append({"step": 1})
    lines.append({"step": 2})
    with lines.path.open("ab") as file:
        file.write(tail)
    assert [line["step"] for line in lines.read()] == [1, 2]
    lines.cut_back(9)
    lines.append({"step": 3})
    assert [line["step"] for line in lines.read()] == [1, 2, 3]


@pytest.mark.parametrize("synced", [True, False])
def test_a_line_that_the_disk_does_not_take_leaves_nothing_behind(
    lines: JsonLines, synced: bool
) -> None:
    lines = JsonLines(path=lines.path, synced=synced)
    lines.append({"step": 1})
    before = lines.path.read_bytes()
    with files_at_most(len(before) + 5), pytest.raises(RunFolderError, match=r"metrics\.jsonl"):
        lines.append({"step": 2, "text": "x" * 100})
    assert lines.path.read_bytes() == before
    lines.append({"step": 2})
    assert json.loads(lines.path.read_text().splitlines()[1]) == {"step": 2}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason=f"{sys.platform} has no /dev/full")
def test_a_full_disk_is_one_sentence() -> None:
    with pytest.raises(RunFolderError) as refused:
        JsonLines(path=Path("/dev/full")).append({"step": 1})
    assert str(refused.value) == (
        "/dev/full cannot be written: the disk is full: make room, and go on with --resume"
    )


def test_so_is_a_file_that_is_not_there(lines: JsonLines) -> None:
    with pytest.raises(RunFolderError, match="cannot be read: No such file or directory"):
        lines.read()
