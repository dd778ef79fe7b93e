"""A file's lines, one at a time: a refusal names the file and the line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from edgepipe.coordinator.train_data.document import Origin
from edgepipe.errors import UsageError

MAX_LINE_BYTES = 16 << 20
_BYTE_ORDER_MARK = "\ufeff"


def read_lines(path: Path) -> Iterator[tuple[Origin, str]]:
    r"""The lines of a UTF-8 file, each with its `\n`; `\r\n` becomes `\n`.

    Raises:
        UsageError: the file cannot be read, a line is over 16 MiB or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            for number in count(1):
                line = file.readline(MAX_LINE_BYTES + 1)
                if not line:
                    return
                origin = Origin(path=path, line=number)
                yield origin, _decoded(origin, line)
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}: check the paths under [data].") from error
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}): name a file that this user may read."
        ) from error


def _decoded(origin: Origin, line: bytes) -> str:
    if len(line) > MAX_LINE_BYTES:
        raise origin.wrong("it is over 16 MiB long: divide it into several lines.")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise origin.wrong("it is not UTF-8: save the file as UTF-8.") from error
    if origin.line == 1:
        text = text.removeprefix(_BYTE_ORDER_MARK)
    return f"{text[:-2]}\n" if text.endswith("\r\n") else text
