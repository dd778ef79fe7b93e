"""`edgepipe agent install|uninstall|status`: the agent as a service of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgepipe.cli import options
from edgepipe.errors import UsageError

if TYPE_CHECKING:
    from edgepipe.agent.service.installing import File
    from edgepipe.agent.service.place import Place

_Text = str | None
_SETTINGS = "Settings"
_ANYWHERE = Path("/")

User = Annotated[bool, typer.Option("--user", help="As a service of yours.")]
System = Annotated[
    bool, typer.Option("--system", help="As a service of the machine, which needs root.")
]
Root = Annotated[
    Path, typer.Option("--root", hidden=True, help="Write below this folder, and start nothing.")
]


def _setting(text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(help=text, rich_help_panel=_SETTINGS)
    return option


def install(
    *,
    profile: Annotated[
        _Text, typer.Option(help="cpu-only, gpu-8g, gpu-24g or macbook: settings to begin with.")
    ] = None,
    user: User = False,
    system: System = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written and run.")
    ] = False,
    name: Annotated[_Text, _setting("What to call this node.")] = None,
    cluster: Annotated[_Text, _setting("The cluster that it belongs to.")] = None,
    listen: Annotated[_Text, _setting("HOST:PORT.")] = None,
    advertise: Annotated[_Text, _setting("HOST:PORT that others should dial.")] = None,
    interface: Annotated[_Text, _setting("Use this network interface alone.")] = None,
    peer: Annotated[list[str] | None, _setting("HOST:PORT of another agent.")] = None,
    device: Annotated[list[str] | None, _setting("cpu, cuda:0 or mps.")] = None,
    threads: Annotated[int | None, _setting("CPU threads of each device.")] = None,
    memory: Annotated[list[str] | None, _setting("6GiB, or cuda:0=6GiB.")] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Plain text beyond loopback.", rich_help_panel=_SETTINGS),
    ] = False,
    root: Root = _ANYWHERE,
) -> None:
    """Start the agent with this machine: write its unit and its settings, and start it."""
    import sys

    from edgepipe.agent.service import here, installing

    place = _place(user=user, system=system, acts=not dry_run and root == _ANYWHERE)
    given = {
        "name": name,
        "cluster": cluster,
        "listen": listen,
        "advertise": advertise,
        "interface": interface,
        "peer": peer,
        "device": device,
        "threads": threads,
        "memory": memory,
        "insecure": insecure or None,
    }
    settings = {key: value for key, value in given.items() if value is not None}
    python = installing.interpreter(sys.executable)
    files = list(
        installing.files_of(
            place,
            installing.Wanted(profile=profile, settings=settings),
            python=python,
            systemd_version=here.systemd_version(),
            root=root,
        )
    )
    installing.check_settings(place, files, root)
    if dry_run:
        _show(place, files, root)
    elif root != _ANYWHERE:
        _write(files, root)
    else:
        _install(place, files, python)


def _show(place: Place, files: list[File], root: Path) -> None:
    from edgepipe.agent.service import here, installing

    for file in files:
        typer.echo(f"# {installing.below(root, file.path)}\n{file.text}")
    for command in here.start_commands(place):
        typer.echo(f"$ {command}")


def _write(files: list[File], root: Path) -> None:
    from edgepipe.agent.service import installing

    for file in files:
        typer.echo(f"wrote {installing.write(file, root)}")


def _install(place: Place, files: list[File], python: Path) -> None:
    import sys

    from edgepipe.agent.service import here, installing
    from edgepipe.agent.service.place import Scope

    here.require_running(place.manager, place.scope)
    if place.scope is Scope.SYSTEM:
        installing.check_readable(python)
    _write(files, _ANYWHERE)
    for command in here.start_commands(place):
        here.run(command)
    typer.echo("the agent runs, and starts with this machine: see `edgepipe agent status`")
    if place.scope is Scope.USER and sys.platform == "linux":
        typer.echo("it ends when you log out, unless you run `loginctl enable-linger` once")


def uninstall(
    *,
    user: User = False,
    system: System = False,
    purge: Annotated[
        bool, typer.Option("--purge", help="Settings, the agent's weights and its identity too.")
    ] = False,
    root: Root = _ANYWHERE,
) -> None:
    """Stop the agent and take away what install wrote; settings and EDGEPIPE_HOME stay."""
    from edgepipe.agent.service import here, installing

    acts = root == _ANYWHERE
    place = _place(user=user, system=system, acts=acts)
    if acts:
        here.require_running(place.manager, place.scope)
    commands = here.stop_commands(place) if acts and place.unit.exists() else ()
    for command in commands:
        here.run(command)
    removed = list(installing.remove(place, root, purge=purge))
    for path in removed:
        typer.echo(f"removed {path}")
    for command in here.forget_commands(place) if commands else ():
        here.run(command)
    if not removed:
        typer.echo("the agent is not installed here")
    for path in installing.kept(place, root):
        typer.echo(f"kept {path}")


def status(*, user: User = False, system: System = False, json: options.Json = False) -> None:
    """Show whether the agent is installed and runs, and what it says of itself."""
    from rich.console import Console

    from edgepipe.cli.agent_status import Status, status_json, status_table
    from edgepipe.cli.show import print_json
    from edgepipe.transport.loop import run_loop

    found = run_loop(Status.of(_place(user=user, system=system, acts=False)))
    if json:
        print_json(status_json(found))
        return
    Console().print(status_table(found))


def _place(*, user: bool, system: bool, acts: bool) -> Place:
    """Of the service that the flags name, else of the one that is installed, else of a new one."""
    import os

    from edgepipe.agent.service import here
    from edgepipe.agent.service.place import Manager, Scope, system_place, user_place

    if user and system:
        raise UsageError("--user and --system exclude each other: give one of them.")
    manager = here.manager_of_platform()
    mine = user_place(manager, home=options.home(), user=Path.home(), environment=os.environ)
    if user:
        scope = Scope.USER
    elif system:
        scope = Scope.SYSTEM
    elif mine.unit.exists():
        scope = Scope.USER
    elif manager is Manager.SYSTEMD and system_place().unit.exists():
        scope = Scope.SYSTEM
    else:
        scope = here.default_scope(manager)
    if acts:
        here.check_scope(manager, scope)
    return system_place() if scope is Scope.SYSTEM else mine
