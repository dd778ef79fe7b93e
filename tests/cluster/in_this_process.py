"""The command line in this process: the same `main`, without the seconds of its imports."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from cluster.conftest import Command, Edgepipe

from edgepipe.cli import main

Here = Callable[..., Command]


def commands(
    edgepipe: Edgepipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Here:
    """Runs a command to its end."""
    for name in ("EDGEPIPE_HOME", "NO_COLOR", "COLUMNS"):
        monkeypatch.setenv(name, edgepipe.environment[name])

    def call(*args: object) -> Command:
        monkeypatch.setattr(sys, "argv", ["edgepipe", *(str(arg) for arg in args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        code = caught.value.code
        return Command(code=code if isinstance(code, int) else 0, out=out, err=err)

    return call
