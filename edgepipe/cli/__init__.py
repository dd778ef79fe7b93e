"""The command line. Heavy imports stand inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import typer

from edgepipe import __version__
from edgepipe.cli.agent import app as agent
from edgepipe.cli.bench import bench
from edgepipe.cli.chat import chat
from edgepipe.cli.demo import demo
from edgepipe.cli.export import export
from edgepipe.cli.nodes import nodes
from edgepipe.cli.plan import plan
from edgepipe.cli.run import run
from edgepipe.cli.serve import serve
from edgepipe.cli.train import train
from edgepipe.cli.verify import verify
from edgepipe.errors import EdgepipeError, UsageError

INTERRUPTED = 130
"""What a shell expects of a command that Ctrl-C ended."""
_Misuse: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises for unknown options and missing arguments; it exports no name for it."""

app = typer.Typer(
    name="edgepipe",
    help="Run models across the machines you already have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (nodes, plan, run, chat, serve, train, export, verify):
    app.command()(command)
app.command(hidden=True)(demo)
app.add_typer(agent, name="agent")
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
    # Read as gRPC is imported, which is later. Whoever is started here runs another program at
    # once: handlers that stop gRPC's threads around a fork are of use to nobody, and can crash one.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        sys.exit(app(standalone_mode=False))
    except _Misuse as error:
        _complain(_usage_error(error))
    except EdgepipeError as error:
        _complain(error)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)


def _usage_error(error: Any) -> UsageError:
    """What typer found, and where the right use is told."""
    sentence = error.format_message().rstrip(".")
    command = error.ctx.command_path if error.ctx is not None else "edgepipe"
    return UsageError(f"{sentence}: see {command} --help" if sentence else "")


def _complain(error: EdgepipeError) -> NoReturn:
    if sentence := str(error):  # typer shows the help, and then has nothing to say
        typer.echo(f"edgepipe: {sentence}", err=True)
    sys.exit(error.exit_code)
