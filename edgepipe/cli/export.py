"""`edgepipe export RUN`: what was trained, for others to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgepipe.cli import options


def export(
    run: Annotated[Path, typer.Argument(help="The folder of a training run.", metavar="RUN")],
    *,
    output: Annotated[Path, typer.Option(help="The new folder to write.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="The whole model, with the adapter in its weights.")
    ] = False,
    step: Annotated[
        int | None, typer.Option(help="The checkpoint after so many steps. Default: the last.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Write a PEFT adapter, or a Hugging Face folder, of what a run has trained."""
    from edgepipe.cli.export_shown import show_export

    show_export(run, output, home=options.home(), step=step, merge=merge, json=json)
