"""The command line. Heavy imports stand inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os
import sys

import typer

from edgepipe import __version__
from edgepipe.cli.agent import agent
from edgepipe.cli.bench import bench
from edgepipe.cli.chat import chat
from edgepipe.cli.demo import demo
from edgepipe.cli.nodes import nodes
from edgepipe.cli.plan import plan
from edgepipe.cli.run import run
from edgepipe.cli.verify import verify
from edgepipe.errors import EdgepipeError

app = typer.Typer(
    name="edgepipe",
    help="Run models across the machines you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (agent, nodes, plan, run, chat, verify):
    app.command()(command)
app.command(hidden=True)(demo)
app.add_typer(bench, name="bench")


def _version(*, value: bool) -> None:
    if value:
        typer.echo(f"edgepipe {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=lambda value: _version(value=value), is_eager=True
    ),
) -> None:
    pass


def main() -> None:
    """Run a command; an error is one sentence on standard error."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core would print beside our sentence
    try:
        app()
    except EdgepipeError as error:
        typer.echo(f"edgepipe: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
