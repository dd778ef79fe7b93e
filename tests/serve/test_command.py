"""`edgepipe serve`, used wrongly: one sentence, before anything starts."""

from __future__ import annotations

import sys
from importlib import util
from pathlib import Path

import pytest
from cluster.in_this_process import Here, commands

here = pytest.fixture(commands)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--slots", 0), "--slots 0 is not within 1 to 256"),
        (("--queue", -1), "--queue -1 is not within 0 to 4096"),
        (("--port", 70_000), "--port 70000 is not within 0 to 65535"),
        (("--api-key", ""), "--api-key is empty: leave it out, or give one"),
        (
            ("--api-key", "clé"),
            "--api-key holds what no client can send: use letters, digits and signs",
        ),
        (
            ("--api-key", "key "),
            "--api-key holds what no client can send: use letters, digits and signs",
        ),
        (("--port", 0, "--context", 1), "--context 1 is not within the model's 2 to 4096"),
        (
            ("--host", "nowhere.invalid"),
            "nobody knows the host nowhere.invalid: serve on an address of this one",
        ),
        (
            ("--host", "192.0.2.1", "--port", 0),
            "this machine has no address 192.0.2.1: serve on one that it has",
        ),
    ],
)
def test_what_cannot_be_is_told(
    here: Here, small: Path, flags: tuple[object, ...], sentence: str
) -> None:
    done = here("serve", small, *flags)
    assert (done.code, done.sentence) == (2, f"edgepipe: {sentence}")


def test_a_missing_extra_is_named(here: Here, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = util.find_spec
    command = sys.modules["edgepipe.cli.serve"]
    missing = {"fastapi": None}
    monkeypatch.setattr(command, "find_spec", lambda name: missing.get(name, found(name)))
    done = here("serve", small)
    assert done.code == 2
    assert done.sentence == (
        "edgepipe: serving wants fastapi, which is not installed: run pip install 'edgepipe[serve]'"
    )
