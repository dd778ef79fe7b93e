"""The documents name only commands, options and targets that exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from edgepipe.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "agents/README.md",
    "docker/README.md",
    "docs/serving.md",
    "docs/training.md",
    "docs/troubleshooting.md",
    "docs/metrics.md",
)
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LEFT_OUT = ("MissingParameter", "NoArgsIsHelpError")
"""An argument, a subcommand: what typer raises, which exports no names for it."""
INLINE = re.compile(r"`([^`\n]+)`")


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks() -> Iterator[str]:
    """Lines of code that a reader copies, of all documents."""
    for document in DOCUMENTS:
        for block in FENCE.findall(text_of(document)):
            yield from block.splitlines()


def mentions() -> Iterator[str]:
    """Code within sentences, of all documents."""
    for document in DOCUMENTS:
        yield from INLINE.findall(FENCE.sub("", text_of(document)))


def starting(start: str, codes: Iterator[str]) -> list[str]:
    return sorted({code for code in codes if code.startswith(start)})


def inert(command: Any) -> Any:
    """The command line, which parses and then does nothing."""
    for inner in getattr(command, "commands", {}).values():
        inert(inner)
    command.callback = None
    return command


def parse(code: str) -> None:
    _, *words = shlex.split(code, comments=True)
    inert(typer.main.get_command(app))(words, standalone_mode=False)


def test_the_documents_were_read() -> None:
    assert len(starting("edgepipe ", blocks())) >= 5
    assert len(starting("edgepipe ", mentions())) >= 5


@pytest.mark.parametrize("code", starting("edgepipe ", blocks()))
def test_a_command_to_copy_is_right(code: str) -> None:
    parse(code)


@pytest.mark.parametrize("code", starting("edgepipe ", mentions()))
def test_a_command_in_a_sentence_is_right_but_for_what_it_leaves_out(code: str) -> None:
    try:
        parse(code)
    except Exception as error:
        if type(error).__name__ not in LEFT_OUT:
            raise


def test_a_wrong_flag_would_be_found() -> None:
    with pytest.raises(Exception, match="No such option"):
        parse("edgepipe nodes --jsn")


@pytest.mark.parametrize("code", starting("--", mentions()))
def test_an_option_in_a_sentence_exists(code: str) -> None:
    assert code.split(maxsplit=1)[0] in _options(typer.main.get_command(app))


def _options(command: Any) -> set[str]:
    found = {name for option in command.params for name in option.opts}
    return found.union(*(_options(inner) for inner in getattr(command, "commands", {}).values()))


def test_every_target_exists() -> None:
    codes = [*starting("make ", blocks()), *starting("make ", mentions())]
    named = {shlex.split(code, comments=True)[1] for code in codes}
    targets = re.findall(r"^(\w[\w-]*):", text_of("Makefile"), re.MULTILINE)
    assert named
    assert named <= {*targets}
