"""`edgepipe agent`: the daemon of one machine, in the foreground, or what installs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgepipe.cli.agent_service import install, status, uninstall
from edgepipe.errors import UsageError

_Text = str | None

app = typer.Typer()


@app.callback(invoke_without_command=True)
def agent(
    context: typer.Context,
    *,
    listen: Annotated[_Text, typer.Option(help="HOST:PORT; port 0 picks one.")] = None,
    advertise: Annotated[_Text, typer.Option(help="HOST:PORT that others should dial.")] = None,
    interface: Annotated[_Text, typer.Option(help="Use this network interface alone.")] = None,
    name: Annotated[
        _Text, typer.Option(help="What to call this node; default its host name.")
    ] = None,
    cluster: Annotated[_Text, typer.Option(help="The cluster that it belongs to.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="HOST:PORT of another agent.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(help="cpu, cuda:0 or mps; default all GPUs, else the CPU.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each device.")] = None,
    memory: Annotated[
        list[str] | None, typer.Option(help="6GiB, or cuda:0=6GiB: what may be used.")
    ] = None,
    slowdown: Annotated[
        float | None, typer.Option(help="Compute so many times slower, to emulate a slower device.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Plain text beyond loopback.")
    ] = False,
    home: Annotated[Path | None, typer.Option(help="Default EDGEPIPE_HOME.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of these settings.")] = None,
    metrics: Annotated[
        _Text, typer.Option(help="HOST:PORT or :PORT that Prometheus may scrape; default: none.")
    ] = None,
    log_format: Annotated[_Text, typer.Option(help="auto, console or json.")] = None,
    log_level: Annotated[_Text, typer.Option(help="debug, info, warning or error.")] = None,
    mdns: Annotated[bool, typer.Option("--mdns/--no-mdns", help="Advertise over mDNS.")] = True,
    private: Annotated[bool, typer.Option("--private", hidden=True)] = False,
) -> None:
    """Offer this machine's devices until it is stopped."""
    if context.invoked_subcommand is not None:
        _refuse_options_before(context)
        return

    from edgepipe.agent.lifeline import Lifeline

    if private:
        Lifeline()

    from edgepipe.agent.configuration import load_settings
    from edgepipe.agent.home import EphemeralIdentity, open_identity
    from edgepipe.agent.supervisor import run_agent
    from edgepipe.obs import logs
    from edgepipe.transport.loop import run_loop

    settings = load_settings(
        {
            "listen": listen,
            "advertise": advertise,
            "interface": interface,
            "name": name,
            "cluster": cluster,
            "peer": peer,
            "device": device,
            "threads": threads,
            "memory": memory,
            "slowdown": slowdown,
            "insecure": insecure,
            "home": home,
            "metrics": metrics,
            "log_format": log_format,
            "log_level": log_level,
        },
        config,
    )
    if private:  # what is set for this machine's own agent is not for one command's
        settings = settings.model_copy(update={"metrics": None})
    logs.configure(settings.log_format, settings.log_level, node=settings.name)

    def on_ready(port: int) -> None:
        sys.stdout.write(json.dumps({"name": settings.name, "port": port}) + "\n")
        sys.stdout.flush()

    with (
        EphemeralIdentity() if private else open_identity(settings.home, settings.name) as identity
    ):
        run_loop(run_agent(settings, identity, mdns=mdns, on_ready=on_ready))


def _refuse_options_before(context: typer.Context) -> None:
    """An option before a subcommand would be the daemon's, which does not run."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    ]
    if given:
        raise UsageError(
            f"{given[0]} stands before {context.invoked_subcommand}: put it behind, as in "
            f"edgepipe agent {context.invoked_subcommand} {given[0]} …"
        )


for command in (install, uninstall, status):
    app.command()(command)
